"""From a data folder to its manifest: read its layout, verify every file, split what is usable."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from thaw.config.schema import Dataset
from thaw.data import images
from thaw.data.layouts import SPLITS, Entry, Refused, quoted, scan
from thaw.data.manifest import Record, Split
from thaw.errors import UserError


@dataclass(frozen=True)
class Manifest:
    """Everything ``prepare`` finds out: records and refused files by path, classes by name.

    ``predefined`` holds the splits that the data name; where it is not empty, the others were drawn from train.
    """

    records: list[Record]
    refused: list[Refused]
    classes: list[str]
    predefined: list[Split]


def build(data: Path, dataset: Dataset, seed: int) -> Manifest:
    """Index a data folder: find its images, decode each once, refuse what is no use, and split the rest.

    Raises:
        UserError: the folder's layout is none of the three, or too few images remain for a class or a split.
    """
    entries, outside = scan(data)
    checked = list(images.parallel(lambda entry: verify(data, entry, dataset.max_megapixels * 1e6), entries, "prepare"))
    conflicts = find_conflicts([result for result in checked if isinstance(result, Record)])
    usable = [result for result in checked if isinstance(result, Record) and result.path not in conflicts]
    refused = [*outside, *(result for result in checked if isinstance(result, Refused)), *conflicts.values()]

    named = {entry.split for entry in entries}
    predefined = [split for split in SPLITS if split in named]
    shares: dict[Split, float] = {"test": dataset.test, "val": dataset.val}
    missing = {split: share for split, share in shares.items() if split not in predefined}
    records = [replace(one, split=draw(one, missing, seed)) if one.split == "train" else one for one in usable]

    manifest = Manifest(
        records=records,
        refused=sorted(refused, key=lambda one: one.path),
        classes=sorted({entry.label for entry in entries}),
        predefined=predefined,
    )
    _require_enough(manifest, {entry.path: entry.label for entry in entries}, dataset.min_images)
    return manifest


def verify(data: Path, entry: Entry, max_pixels: float) -> Record | Refused:
    """Decode a file once; if that works, return its record (in train unless the layout says otherwise)."""
    path = data / entry.path
    try:
        width, height = images.measure(path, max_pixels)
    except images.Unusable as error:
        return Refused(entry.path, str(error))
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Record(entry.path, entry.label, entry.split or "train", sha256, width, height, entry.group)


def find_conflicts(records: Iterable[Record]) -> dict[str, Refused]:
    """Find, among identical files, those that must not be used, by path.

    Of two labels at least one is wrong, and two groups would put one image into two splits, so all copies go. Of
    copies in two predefined splits only those in the earlier one go: test stays as it was given.
    """
    copies = defaultdict(list)
    for record in records:
        copies[record.sha256].append(record)
    conflicts = {}
    for same in copies.values():
        labels, groups = sorted({one.label for one in same}), sorted({one.group for one in same})
        last = max(same, key=lambda one: SPLITS.index(one.split))
        for one in same:
            if len(labels) > 1:
                reason = f"in two classes: the same image is labelled {quoted(labels)}"
            elif len(groups) > 1:
                reason = f"in two groups: the same image is in the groups {quoted(groups)}"
            elif one.split != last.split:
                reason = f"also in {last.split}: the same image is {last.path!r}"
            else:
                continue
            conflicts[one.path] = Refused(one.path, reason)
    return conflicts


def draw(record: Record, shares: Mapping[Split, float], seed: int) -> Split:
    """Draw one of the splits in ``shares``, or train, by a hash of the image's group or, without one, its content.

    The draw knows neither the other images nor the class nor the path, so adding, renaming and relabelling images moves
    no other one, and neither identical images nor a group can straddle splits.
    """
    identity = f"group/{record.group}" if record.group else f"image/{record.sha256}"
    digest = hashlib.sha256(f"{seed}/{identity}".encode()).digest()
    position, bound = int.from_bytes(digest[:8], "big") / 2**64, 0.0
    for split, share in shares.items():
        bound += share
        if position < bound:
            return split
    return "train"


def _require_enough(manifest: Manifest, labels: Mapping[str, str], min_images: int) -> None:
    """Stop if a class has too few images to learn from, or none in a split."""
    refused = defaultdict(list)
    for one in manifest.refused:
        refused[labels.get(one.path)].append(one)
    count = Counter(record.label for record in manifest.records)
    for label in manifest.classes:
        if count[label] < min_images:
            why = refused[label]
            detail = f" ({len(why)} refused, the first one, {why[0].path!r}, as {why[0].reason})" if why else ""
            raise UserError(
                f"class {label!r}: expected at least {min_images} usable images, found {count[label]}{detail}; "
                "add images, or lower min_images in conf/dataset"
            )
    present = {(record.label, record.split) for record in manifest.records}
    for label in manifest.classes:
        if empty := [split for split in SPLITS if (label, split) not in present]:
            raise UserError(
                f"class {label!r}: expected images in train, val and test, found none in {' and '.join(empty)}; "
                "add images, change the seed in params.yaml, or change val and test in conf/dataset"
            )
