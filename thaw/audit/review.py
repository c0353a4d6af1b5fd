"""The review page: suspects one by one, and a person who decides what becomes of each.

``review.html`` needs nothing beside it, no network and no notebook: it is opened from disk and keeps what is decided in
the browser until it is saved as ``corrections.csv``, which 'python -m stages.get_data correct' applies. Its columns:

    path,action,value
    cats/1.jpg,keep,              the label is right; the picture is fine
    cats/2.jpg,relabel,dogs       it is of the class in value
    cats/3.jpg,remove,            leave it out
    cats/4.jpg,same,dogs/9.jpg    both show the same object: they belong into one split
    cats/5.jpg,different,cats/6.jpg  they do not

``review.html.j2`` is how the page looks, ``SCRIPTS`` what it does. It has the same bytes for the same input: no
dates, no absolute paths.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jinja2

from thaw import parallel
from thaw.artifacts import write_text
from thaw.data import images
from thaw.data.manifest import Split

MOST = 60  # suspects of a kind on one page: as many as a person looks at in one go, and as a phone opens
SIDE = 360  # pixels of a picture's longer side: enough to judge by, at some 30 KB
SCRIPTS = ("corrections.js", "classes.js", "review.js")
COMMAND = "python -m stages.get_data correct corrections.csv"

Kind = Literal["conflict", "label", "copy", "outlier", "odd"]


class _Wording(NamedTuple):
    """How the page speaks of a kind of suspects.

    Attributes:
        name: of all of them.
        question: what a person is asked.
        keep: what it means to keep one.
        meaning: what was looked for.
    """

    name: str
    question: str
    keep: str
    meaning: str


KINDS: dict[Kind, _Wording] = {
    "conflict": _Wording(
        "Conflicting labels",
        "Which label is right?",
        "the label here is right",
        "identical files in different classes, none of which is used",
    ),
    "label": _Wording(
        "Labels",
        "Is it labelled right?",
        "the label is right",
        "labels that the picture itself speaks against",
    ),
    "copy": _Wording(
        "Copies",
        "Do both show the same object?",
        "two different objects",
        "pictures of one and the same object in different splits or classes",
    ),
    "outlier": _Wording(
        "Outliers",
        "Does it belong here?",
        "it belongs here",
        "pictures that resemble no other",
    ),
    "odd": _Wording(
        "Odd pictures",
        "Is this picture fine?",
        "the picture is fine",
        "pictures that are blank, blurred, dark or otherwise odd",
    ),
}


@dataclass(frozen=True)
class Neighbour:
    """A picture that a suspect resembles.

    Attributes:
        path: relative to the data folder, '/'-separated.
        label: its class.
        split: where it is; None where it is not used.
        note: how much it resembles, in a few words; may be empty.
    """

    path: str
    label: str
    split: Split | None
    note: str = ""


@dataclass(frozen=True)
class Suspect:
    """A picture that a person should look at.

    Attributes:
        kind: what it is suspected of, see ``KINDS``.
        path: relative to the data folder, '/'-separated.
        label: its class.
        split: where it is; None where it is not used.
        why: it is suspected, in one plain sentence.
        suggestion: the class that it seems to be of, for the kinds "label" and "conflict".
        resembles: other pictures to compare it with, the most telling first.
    """

    kind: Kind
    path: str
    label: str
    split: Split | None
    why: str
    suggestion: str = ""
    resembles: tuple[Neighbour, ...] = ()


def shown(suspects: Sequence[Suspect]) -> list[Suspect]:
    """Return the suspects that the page shows: of each kind the first ``MOST``."""
    return [one for kind in KINDS for one in [one for one in suspects if one.kind == kind][:MOST]]


def write(path: Path, suspects: Sequence[Suspect], classes: Sequence[str], data: Path, total: int) -> None:
    """Write the page.

    Args:
        path: of the HTML file.
        suspects: the most suspicious of each kind first, of which the page shows the first ``MOST``.
        classes: all that a picture may be relabelled to.
        data: the folder of the images. One that is not there any more is shown as missing.
        total: how many images the audit has looked at.
    """
    first = shown(suspects)
    code = "\n".join(Path(__file__).with_name(name).read_text(encoding="utf-8") for name in SCRIPTS)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    page = environment.get_template("review.html.j2").render(
        found=len(suspects),
        shown=len(first),
        total=total,
        kinds=KINDS,
        present=[kind for kind in KINDS if any(one.kind == kind for one in first)],
        command=COMMAND,
        content=_embedded(_content(first, classes, data)),
        code=code,
        hash=base64.b64encode(hashlib.sha256(code.encode("utf-8")).digest()).decode(),
    )
    write_text(path, page)


def _content(suspects: Sequence[Suspect], classes: Sequence[str], data: Path) -> dict[str, Any]:
    """Return all that the page shows; each picture is in it once, however often it is shown."""
    told = {"suspects": [asdict(one) for one in suspects], "classes": [*classes]}
    # What is decided is kept under this name: another audit's page begins anew, the same one goes on.
    name = hashlib.sha256(json.dumps(told).encode("utf-8")).hexdigest()[:16]
    paths = [*dict.fromkeys(_paths(suspects))]
    pictures = parallel.ahead(lambda path: images.thumbnail(data / path, SIDE), paths)
    wording = {kind: one._asdict() for kind, one in KINDS.items()}
    return told | {"key": f"thaw-review-{name}", "kinds": wording, "pictures": dict(zip(paths, pictures, strict=True))}


def _paths(suspects: Iterable[Suspect]) -> Iterable[str]:
    for suspect in suspects:
        yield suspect.path
        yield from (one.path for one in suspect.resembles)


def _embedded(value: Any) -> str:
    """Return JSON in ASCII that may stand inside of a script element: whatever it says, it cannot end it."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
