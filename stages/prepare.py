"""Index data/: verify every image once, and split them into train, val and test (``python -m stages.prepare``).

Reads data/. Writes artifacts/prepare: ``manifest.csv`` (one row per usable image), ``classes.json``, ``refused.csv``
(the other files, with the reason), ``contradictory.csv`` (those of them that are identical and in different classes, of
which the audit asks a person) and ``summary.json`` (counts).
"""

import csv
import math
from collections import Counter
from typing import Any

from thaw.artifacts import Paths, write_json
from thaw.config.composing import command
from thaw.config.schema import Dataset
from thaw.data import indexing, manifest
from thaw.data.indexing import Manifest
from thaw.data.layouts import SPLITS


def run(paths: Paths, dataset: Dataset, seed: int) -> None:
    """Build the manifest of ``paths.data``.

    Raises:
        UserError: the data cannot be used as they are.
    """
    with paths.stage("prepare", dataset=dataset, seed=seed) as out:
        found = indexing.build(paths.data, dataset, seed)
        summary = summarize(found)
        manifest.write(out / paths.manifest.name, found.records)
        manifest.write(out / paths.contradictory.name, found.contradictory)
        write_json(out / paths.classes.name, found.classes)
        write_json(out / "summary.json", summary)
        with (out / paths.refused.name).open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(["path", "reason"])
            rows.writerows((one.path, one.reason) for one in found.refused)
    print(describe(summary))


def summarize(found: Manifest) -> dict[str, Any]:
    """Count images by split and class, refused files by reason and surplus copies; say where splits come from."""
    count = Counter((record.split, record.label) for record in found.records)
    drawn = "drawn from train" if found.predefined else "drawn"
    return {
        "images": {split: {label: count[split, label] for label in found.classes} for split in SPLITS},
        "refused": dict(sorted(Counter(one.kind for one in found.refused).items())),
        "duplicates": len(found.records) - len({record.sha256 for record in found.records}),
        "splits": {split: "predefined" if split in found.predefined else drawn for split in SPLITS},
        **({"corrections": found.corrections} if found.corrections else {}),
        **({"notes": found.notes} if found.notes else {}),
    }


def describe(summary: dict[str, Any]) -> str:
    """Say the same in a few lines."""
    images, refused = summary["images"], summary["refused"]
    total = {split: sum(images[split].values()) for split in SPLITS}
    by_split = ", ".join(f"{number:,} {split}" for split, number in total.items())
    whole = f"{sum(total.values()):,} images in {len(images['train'])} classes"
    lines = [f"{whole}: {by_split}; {sum(refused.values())} files refused"]
    lines += [f"  refused: {number} x {kind}" for kind, number in refused.items()]
    if refused:
        lines.append("  (each with its reason in artifacts/prepare/refused.csv)")
    if taken := [split for split in SPLITS if summary["splits"][split] == "drawn from train"]:
        lines.append(f"  {' and '.join(taken)} taken from train: the data predefine no such split")
    lines += [f"  {note}" for note in summary.get("notes", [])]
    # As far as an accuracy of 80% may be off (normal approximation, 95%).
    margin = 196 * math.sqrt(0.8 * 0.2 / total["test"])
    lines.append(f"  {total['test']:,} test images show an accuracy to within some {margin:.0f} points")
    if summary["duplicates"]:
        lines.append(f"  {summary['duplicates']} x a copy of another image; copies share a split")
    return "\n".join(lines)


if __name__ == "__main__":
    command(run)
