"""From a data folder to its manifest: understand its layout, verify every file, split what is usable."""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import get_args

from thaw import cluster
from thaw.config.schema import Dataset
from thaw.data import corrections, descriptions, folders, images, samples, shards, tables
from thaw.data.corrections import Action, Correction
from thaw.data.files import BROKEN, COMPRESSED, Listing, listing
from thaw.data.layouts import SPLITS, Entry, Layout, Options, Refused, coherent, few, is_picture, quoted
from thaw.data.manifest import Record, Split
from thaw.errors import UserError


@dataclass(frozen=True)
class Manifest:
    """Everything ``prepare`` finds out: records and refused files by path, classes by name.

    ``predefined`` holds the splits that the data name; where it is not empty, the others were drawn from train.
    ``notes`` say how the layout was understood. ``corrections`` says, where there are some, how many of each action are
    about images, how many are about none (``unmatched``), and how many images they put into another split (``moved``).
    ``contradictory`` are those that are refused because they show the same and are labelled differently.
    """

    records: list[Record]
    refused: list[Refused]
    classes: list[str]
    predefined: list[Split]
    notes: list[str] = field(default_factory=list)
    corrections: dict[str, int] = field(default_factory=dict)
    contradictory: list[Record] = field(default_factory=list)


def build(data: Path, dataset: Dataset, seed: int) -> Manifest:
    """Index a data folder: find its images, decode each once, apply corrections, refuse what is no use, split the rest.

    Raises:
        UserError: the folder cannot be understood, or too few images remain to tell two classes apart.
    """
    layout = scan(data)
    look = partial(verify, data, max_pixels=dataset.max_megapixels * 1e6)
    checked = cluster.everywhere(look, layout.entries, "prepare", data)
    if cluster.is_named():
        require_shared(layout, checked, look)
    given = corrections.of(data)
    manifest = _arrange(layout, checked, given, dataset, seed)
    if given:
        manifest = _compare(_arrange(layout, checked, [], dataset, seed), manifest, layout, given)
    _require_enough(manifest)
    return manifest


def _arrange(
    layout: Layout, checked: Sequence[Record | Refused], given: Sequence[Correction], dataset: Dataset, seed: int
) -> Manifest:
    """Say which of the files that have been looked at are used, as what, and in which split."""
    usable, removed = corrections.apply((one for one in checked if isinstance(one, Record)), given)
    if dataset.dedupe == "group":
        usable = corrections.group(usable, given)
    unfit, decoded = find_conflicts(usable), usable
    usable = [one for one in usable if one.path not in unfit]
    notes = list(layout.notes)
    if dataset.dedupe == "drop":
        unfit |= corrections.surplus(usable, given)
        usable = [one for one in usable if one.path not in unfit]
    else:
        notes += corrections.straddling(usable, given)
    refused = [*layout.refused, *(one for one in checked if isinstance(one, Refused)), *removed, *unfit.values()]

    named = {entry.split for entry in layout.entries}
    predefined = [split for split in SPLITS if split in named]
    shares: dict[Split, float] = {"test": dataset.test, "val": dataset.val}
    missing = {split: share for split, share in shares.items() if split not in predefined}
    small = _left_out(usable, dataset.min_images)
    if small:
        lost = sorted({one.label for one in usable if one.path in small})
        notes.append(f"classes that are left out, as too small: {few(lost)}")
    usable = [one for one in usable if one.path not in small]
    drawn = draw([one for one in usable if one.split == "train"], missing, seed)
    return Manifest(
        records=[replace(one, split=drawn.get(one.path, one.split)) for one in usable],
        refused=sorted([*refused, *small.values()], key=lambda one: one.path),
        classes=sorted({one.label for one in usable}),
        predefined=predefined,
        notes=notes,
        contradictory=[
            one for one in decoded if one.path in unfit and unfit[one.path].kind == corrections.IN_TWO_CLASSES
        ],
    )


def _compare(before: Manifest, after: Manifest, layout: Layout, given: Sequence[Correction]) -> Manifest:
    """Say in ``after`` what the corrections have made of ``before``."""
    paths = {entry.path for entry in layout.entries}
    matched = [one for one in given if paths.issuperset(one.paths)]
    split = {one.path: one.split for one in before.records}
    moved = sum(split.get(one.path, one.split) != one.split for one in after.records)
    note = f"corrections: {corrections.counted(matched)}"
    if unmatched := len(given) - len(matched):
        note += f"; {unmatched} of images that are not there"
    if moved:
        note += f"; {moved} x an image in another split because of them"
    count = Counter(one.action for one in matched)
    counts = {action: count[action] for action in get_args(Action)} | {"unmatched": unmatched, "moved": moved}
    made = corrections.anew(matched, (entry.label for entry in layout.entries))
    return replace(after, notes=[*after.notes, note, *made], corrections=counts)


def scan(data: Path, options: Options | None = None) -> Layout:
    """Understand a data folder, without opening any image.

    Raises:
        UserError: the folder is missing or empty, there are fewer than two classes, or a group stands in two splits.
    """
    if not data.is_dir():
        raise UserError(
            f"expected images in the folder {data}, found no such folder; "
            "bring some with 'python -m stages.get_data digits' or 'python -m stages.get_data folder PATH'"
        )
    return understand(data, listing(data), options or Options())


def understand(data: Path, files: Listing, options: Options) -> Layout:
    """Do as ``scan`` does with a folder whose files are listed."""
    tars = [one for one in files.refused if one.kind in (COMPRESSED, BROKEN)]
    if tars and not any(map(is_picture, files.paths)):
        raise UserError(f"expected images in {data}, found {few(one.path for one in tars)}: {tars[0].reason}")
    if not files.paths:
        raise UserError(f"expected images in {data}, found no file; add a folder of images for each class")
    layout = tables.inside(data, files.paths, options) or samples.understand(data, files, options)
    layout = layout or descriptions.added(data, folders.understand(data, files, options), files.paths)
    notes = [f"shards, which are read in place: {len(files.shards):,}"] if files.shards else []
    refused = [*files.refused, *layout.refused]
    return coherent(data, replace(layout, refused=refused, notes=[*notes, *layout.notes]))


def verify(data: Path, entry: Entry, max_pixels: float) -> Record | Refused:
    """Decode a file once; if that works, return its record (in train unless the layout says otherwise)."""
    path = data / entry.path
    try:
        width, height = images.measure(path, max_pixels)
    except images.Unusable as error:
        return Refused(entry.path, str(error))
    with shards.opened(path) as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Record(entry.path, entry.label, entry.split or "train", sha256, width, height, entry.group, entry.metadata)


def require_shared(
    layout: Layout, checked: Sequence[Record | Refused], look: Callable[[Entry], Record | Refused]
) -> None:
    """Stop if a machine of the cluster could not read what this one can."""
    for entry, found in zip(layout.entries, checked, strict=True):
        if isinstance(found, Refused) and found.kind == "unreadable" and look(entry) != found:
            raise UserError(
                f"expected every machine of the Ray cluster to read the data as this one does, found {entry.path} "
                f"{found.reason}; share the folder between them under the same path, or unset {cluster.ADDRESS}"
            )


def find_conflicts(records: Iterable[Record]) -> dict[str, Refused]:
    """Find, among identical files, those that must not be used, by path.

    Of two labels at least one is wrong, and two groups would put one image into two splits, so all copies go. Of
    copies in two predefined splits only those in the earlier one go: test stays as it was given.
    """
    listed, copies = list(records), defaultdict(list)
    count = Counter(record.sha256 for record in listed)
    for record in listed:
        if count[record.sha256] > 1:
            copies[record.sha256].append(record)
    conflicts = {}
    for same in copies.values():
        labels, groups = sorted({one.label for one in same}), sorted({one.group for one in same})
        last = max(same, key=lambda one: SPLITS.index(one.split))
        for one in same:
            if len(labels) > 1:
                reason = f"{corrections.IN_TWO_CLASSES}: the same image is labelled {quoted(labels)}"
            elif len(groups) > 1:
                reason = f"in two groups: the same image is in the groups {quoted(groups)}"
            elif one.split != last.split:
                reason = f"also in {last.split}: the same image is {last.path!r}"
            else:
                continue
            conflicts[one.path] = Refused(one.path, reason)
    return conflicts


def draw(records: Sequence[Record], shares: Mapping[Split, float], seed: int) -> dict[str, Split]:
    """Draw the splits in ``shares``, and train, for some images; return each image's, by path.

    What must stay together, copies of an image and a group, is one unit. Its place in [0, 1) is a hash of the seed and
    its content, so that adding, renaming and relabelling images moves no other one. In the order of places, the first
    units of each class are in the first split, as many as lie below its share; but never fewer than half of what was
    asked for, nor more than one and a half times as many, and at least one wherever the class has one for each split
    and for train. Only a small class comes to these bounds. Then a new image may move others, three at most: the first
    split ends one image sooner or later, and the second one two.
    """
    units: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        units[record.unit].append(record)
    by_class: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for name, members in units.items():
        counts = Counter(record.label for record in members)
        label = min(counts, key=lambda one: (-counts[one], one))
        digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        by_class[label].append((int.from_bytes(digest[:8], "big") / 2**64, name))
    drawn: dict[str, Split] = {}
    for places in by_class.values():
        places.sort()
        wanted = _counts([place for place, _ in places], list(shares.values()))
        splits = [split for split, count in zip(shares, wanted, strict=True) for _ in range(count)]
        for number, (_, name) in enumerate(places):
            split: Split = splits[number] if number < len(splits) else "train"
            drawn |= dict.fromkeys((record.path for record in units[name]), split)
    return drawn


def _counts(places: Sequence[float], shares: Sequence[float]) -> list[int]:
    """How many units of a class go to each split: see ``draw``."""
    total, found, bound = len(places), list[int](), 0.0
    least = 1 if total > len(shares) else 0
    for share in shares:
        count = sum(bound <= place < bound + share for place in places)
        bound += share
        low, high = math.ceil(share * total / 2), math.floor(3 * share * total / 2)
        found.append(max(least, low, min(count, max(high, least, low))))
    while sum(found) >= max(total, 1) and any(found):  # something is left to learn from
        found[found.index(max(found))] -= 1
    return found


def _left_out(records: Sequence[Record], least: int) -> dict[str, Refused]:
    """Find the images of classes that are too small, or without images to learn from, by path."""
    count = Counter(record.label for record in records)
    trained = {record.label for record in records if record.split == "train"}
    reasons = {
        label: f"too small a class: {count[label]} usable images, fewer than {least}"
        if count[label] < least
        else "a class without training images"
        for label in count
        if count[label] < least or label not in trained
    }
    return {one.path: Refused(one.path, reasons[one.label]) for one in records if one.label in reasons}


def _require_enough(manifest: Manifest) -> None:
    """Stop if there is nothing to tell apart, or no image to choose or to judge by."""
    if len(manifest.classes) < 2:
        reasons = Counter(one.kind for one in manifest.refused)
        why = ", ".join(f"{count} x {kind}" for kind, count in sorted(reasons.items()))
        raise UserError(
            f"expected at least two classes of usable images, found {quoted(manifest.classes) or 'none'} "
            f"({why or 'no file refused'}); add images, or lower min_images in conf/dataset"
        )
    present = {record.split for record in manifest.records}
    if empty := [split for split in SPLITS if split not in present]:
        raise UserError(
            f"expected images in train, val and test, found none in {' and '.join(empty)}; add images, or raise val "
            "and test in conf/dataset"
        )
