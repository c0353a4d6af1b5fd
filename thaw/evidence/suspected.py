"""The first of what the audit suspects, for the report: each picture beside the one that it resembles most."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thaw.data import images

SIDE = 120  # pixels of a picture's longer side: some 4 KB each
# What is shown together, of which kinds of suspects, and how many of them.
PARTS = (
    ("Identical files in different classes", {"conflict"}, 6),
    ("Copies", {"copy"}, 6),
    ("Doubtful labels", {"label"}, 6),
    ("Odd, or unlike all others", {"outlier", "odd"}, 4),
)
SPLITS = {"train": "training", "val": "validation", "test": "test", None: "not used"}


def pictured(findings: Mapping[str, Any], data: Path) -> list[dict[str, Any]]:
    """Lay out the first of each kind of suspects; of copies, those across splits come first.

    Args:
        findings: what the data say about themselves, see ``thaw.audit.findings.Findings``.
        data: the folder of the images.
    """
    parts = []
    for title, kinds, most in PARTS:
        suspects = [one for one in findings["suspects"] if one["kind"] in kinds]
        suspects.sort(key=lambda one: one["kind"] == "copy" and one["split"] == one["resembles"][0]["split"])
        if suspects:
            parts.append({"title": title, "suspects": [_laid_out(one, data) for one in suspects[:most]]})
    return parts


def _laid_out(suspect: Mapping[str, Any], data: Path) -> dict[str, Any]:
    """Lay out a suspect: why it is one, and its picture and that of what it resembles, if it does any."""
    pictures = []
    for one in (suspect, *suspect["resembles"][:1]):
        source, is_tiny = images.thumbnail(data / one["path"], SIDE)
        said = {"path": one["path"], "label": one["label"], "split": SPLITS[one["split"]]}
        pictures.append(said | {"source": source, "tiny": is_tiny})
    return {"why": suspect["why"], "pictures": pictures}
