"""Data sets whose folders say what is what.

- split folders with class folders inside (``train/cat/…``, ``Validation/cat/…``), or class folders with split folders
  inside; else
- class folders (``cat/…``), or files that carry the class in their names (``cat.001.jpg``);

each perhaps in folders around it. Where class folders hold folders, ``Options.classes`` says which are the classes.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from sys import intern

from thaw.data.files import NUMBERED_SHARD, Listing
from thaw.data.layouts import Entry, Layout, Options, Refused, few, is_picture, split_of, split_of_shard
from thaw.data.manifest import Split
from thaw.data.shards import tar_of
from thaw.errors import UserError

FOLD = re.compile(r"(cv|k)?[ _-]*fold[ _-]*\d+", re.IGNORECASE)
MOST = 0.9  # the share of a single class that makes one wonder
NUMBERED = re.compile(r"([^\W\d][^.]*)\.\d+", re.UNICODE)  # the stem of cat.001.jpg


def understand(data: Path, files: Listing, options: Options) -> Layout:
    """Understand a folder by the folders in it, and in its shards: as if these were unpacked where they lie."""
    if not files.shards:
        return _understand(data, files, options)
    packed, refused = _unpacked(files)
    layout = _understand(data, replace(files, paths=sorted(packed)), options)
    entries = [replace(entry, path=packed[entry.path]) for entry in layout.entries]
    refused += [replace(one, path=packed.get(one.path, one.path)) for one in layout.refused]
    return replace(layout, entries=sorted(entries, key=lambda one: one.path), refused=refused)


def _unpacked(files: Listing) -> tuple[dict[str, str], list[Refused]]:
    """Return the real path of each file by the one that it has when shards are unpacked; then what is in two shards.

    A shard's name says nothing, but for the split of all that is in it (train-000012.tar); of tars that are not
    numbered and have no folders inside (cats.tar), it is the class.
    """
    tars = {*files.shards}
    held = [(tar_of(path, tars), path) for path in files.paths]
    with_folders = {tar for tar, path in held if tar and "/" in path[len(tar) + 1 :]}
    around = dict[str, str]()
    for tar in files.shards:
        folder, _, name = f"/{tar}".rpartition("/")
        split, is_class = split_of_shard(name), tar not in with_folders and not NUMBERED_SHARD.fullmatch(name)
        around[tar] = f"{folder}/{split or (PurePosixPath(name).stem if is_class else '')}".strip("/")
    packed, refused = dict[str, str](), list[Refused]()
    for tar, path in held:
        bare = f"{around[tar]}{path[len(tar) :]}".strip("/") if tar else path
        if (other := packed.get(bare)) is not None:
            refused.append(Refused(other, f"in two shards: {path!r} has the same path, and is used"))
        packed[bare] = path
    return packed, refused


def _understand(data: Path, files: Listing, options: Options) -> Layout:
    if options.label_from:
        return _by_pattern(files.paths, options.label_from)
    tree = _Tree(files.paths, files.folders)
    top = ""
    while len(inside := tree.within(top)) == 1 and not tree.direct[top] and tree.inside[inside[0]]:
        if split_of(_name(inside[0])) == "train":
            break
        (top,) = inside
    notes = [f"the images are in {top}/"] if top else []
    entries, refused = _classes(tree, top, options, notes)
    if not entries and tree.direct[top]:
        entries = _by_number(tree.direct[top])
        if entries:
            notes.append("the classes are taken from the files' names, up to the number")
            refused = []
    known = {*(entry.path for entry in entries), *(one.path for one in refused)}
    for path in files.paths:
        if path not in known:
            outside = "no class: outside the class folders"
            refused.append(Refused(path, outside if is_picture(path) else "not an image: by its name"))
    if not entries:
        raise UserError(
            f"expected a folder for each class in {data}, found none with images, and {len(tree.direct[top])} images "
            "beside each other; sort them into class folders, or list them in a table with the columns path,label"
        )
    if empty := sorted(folder for folder in tree.empty if folder.rpartition("/")[0] not in tree.empty):
        notes.append(f"without images, and left out: {few(f'{folder}/' for folder in empty)}")
    is_listed = options.classes != "outermost"
    return Layout(sorted(entries, key=lambda one: one.path), refused, notes, is_listed, top)


class _Tree:
    """Folders and the images in them, by path; the top is ``""``."""

    def __init__(self, paths: Iterable[str], folders: Iterable[str]) -> None:
        self.inside: dict[str, set[str]] = defaultdict(set)  # of each folder, the folders that hold images
        self.direct: dict[str, list[str]] = defaultdict(list)  # of each folder, the images
        self.empty = set(folders)  # folders without images
        for path in filter(is_picture, paths):
            parent = path.rpartition("/")[0]
            self.direct[parent].append(path)
            while parent:
                self.empty.discard(parent)
                above = parent.rpartition("/")[0]
                self.inside[above].add(parent)
                parent = above

    def within(self, folder: str) -> list[str]:
        """The folders in a folder that hold images, sorted."""
        return sorted(self.inside[folder])

    def unwrapped(self, folder: str) -> str:
        """Go down as long as there is nothing but one folder of folders."""
        while len(inside := self.within(folder)) == 1 and not self.direct[folder] and self.inside[inside[0]]:
            (folder,) = inside
        return folder


def _classes(tree: _Tree, top: str, options: Options, notes: list[str]) -> tuple[list[Entry], list[Refused]]:
    """Find the class folders below ``top``, by splits if there are some."""
    inside = tree.within(top)
    if inside and all(FOLD.fullmatch(_name(folder)) and tree.inside[folder] for folder in inside):
        return _folds(tree, inside, options, notes)
    named = {folder: split for folder in inside if (split := split_of(_name(folder)))}
    with_classes = {folder for folder in named if tree.inside[folder]}
    others = [folder for folder in inside if folder not in named]
    # A folder 'train' that is like the one beside it, 'bus', is a class: both hold images, or both hold folders.
    alone = len(with_classes) == 1 and (
        all(split != "train" for split in named.values()) or any(tree.inside[one] for one in others)
    )
    if with_classes and not (others and alone):
        entries, refused = _in_splits(tree, named, with_classes)
        for folder in others:
            notes.append(f"beside the split folders, and left out: {folder}/")
            refused += [Refused(path, "beside the split folders") for path in _below(tree, folder)]
        return _labelled(entries, options, notes), refused
    splits = [{split_of(_name(one)) for one in tree.within(folder)} for folder in inside]
    if splits and all("train" in of_class and None not in of_class for of_class in splits):
        notes.append("the splits are folders inside the class folders")
        return _with_splits_inside(tree, inside)
    if inside and len(named) == len(inside):
        return [], []  # split folders of files
    prefix = f"{top}/" if top else ""
    entries = [
        Entry(path, intern(path[len(prefix) :].rpartition("/")[0]))
        for folder in inside
        for path in _below(tree, folder)
    ]
    return _labelled(entries, options, notes), []


def _in_splits(tree: _Tree, named: Mapping[str, Split], with_classes: set[str]) -> tuple[list[Entry], list[Refused]]:
    """Take the class folders inside split folders; what lies outside of them has no label."""
    entries, refused = list[Entry](), list[Refused]()
    for folder in sorted(named):
        base = tree.unwrapped(folder)
        for path in _below(tree, folder):
            inner = path.removeprefix(f"{base}/")
            if folder in with_classes and inner != path and "/" in inner:
                entries.append(Entry(path, intern(inner.rpartition("/")[0]), named[folder]))
            else:
                refused.append(Refused(path, f"no label: in {folder}/, outside any class folder"))
    return entries, refused


def _with_splits_inside(tree: _Tree, classes: Sequence[str]) -> tuple[list[Entry], list[Refused]]:
    """Take class folders that have split folders inside."""
    entries, refused = list[Entry](), list[Refused]()
    for folder in classes:
        for inner in tree.within(folder):
            entries += [Entry(path, _name(folder), split_of(_name(inner))) for path in _below(tree, inner)]
        refused += [Refused(path, "no split: beside the split folders") for path in tree.direct[folder]]
    return entries, refused


def _folds(tree: _Tree, folds: Sequence[str], options: Options, notes: list[str]) -> tuple[list[Entry], list[Refused]]:
    """Take all folds of a data set as one; where each holds splits, every image stands in each, so take the first."""
    first, *others = folds
    if any(split_of(_name(folder)) for folder in tree.within(first)):
        notes.append(f"every fold holds all images: {first}/ is used, the others are left out")
        entries, refused = _classes(tree, first, options, notes)
        unused = [Refused(path, "in another fold") for folder in others for path in _below(tree, folder)]
        return entries, [*refused, *unused]
    notes.append(f"{len(folds)} folds, taken together; splits are drawn anew")
    entries = [
        Entry(path, path[len(folder) + 1 :].rpartition("/")[0])
        for folder in folds
        for inner in tree.within(folder)
        for path in _below(tree, inner)
    ]
    return _labelled(entries, options, notes), []


def _below(tree: _Tree, folder: str) -> list[str]:
    """All images below a folder."""
    return [*tree.direct[folder], *(path for inner in tree.within(folder) for path in _below(tree, inner))]


def _labelled(entries: list[Entry], options: Options, notes: list[str]) -> list[Entry]:
    """Turn the folders of each file, below the split, into its label."""
    levels = {entry.label for entry in entries}
    if not any("/" in label for label in levels):
        return entries
    parents: dict[tuple[str | None, str], set[str]] = defaultdict(set)
    for entry in entries:
        parents[entry.split, _name(entry.label)].add(entry.label.rpartition("/")[0])
    # The same name in two places of one split is two things, which the folders around them tell apart.
    alike = {name for (_, name), around in parents.items() if len(around) > 1}

    def innermost(label: str) -> str:
        return "/".join(label.split("/")[-2:]) if _name(label) in alike else _name(label)

    rules: Mapping[str, Callable[[str], str]] = {
        "outermost": lambda label: label.split("/")[0],
        "innermost": innermost,
        "path": lambda label: label,
    }
    counts = {name: len({rule(label) for label in levels}) for name, rule in rules.items()}
    others = " and ".join(f"--classes {name} makes {counts[name]}" for name in rules if name != options.classes)
    chosen = f"the {options.classes} ones are the {counts[options.classes]} classes"
    notes.append(f"class folders hold folders: {chosen}; {others}")
    size = Counter(entry.label.split("/")[0] for entry in entries)
    largest, count = size.most_common(1)[0]
    inner = {label for label in levels if label.startswith(f"{largest}/")}
    if options.classes == "outermost" and len(size) > 1 and len(inner) > 1 and count > MOST * len(entries):
        share = f"{count / len(entries):.0%} of the images are in {largest}/"
        notes.append(f"{share}: if the folders in it are the classes, bring that folder alone")
    return [replace(entry, label=rules[options.classes](entry.label)) for entry in entries]


def _by_number(paths: Sequence[str]) -> list[Entry]:
    """Read labels off names like ``cat.001.jpg``; nothing if not all are like that."""
    matches = [(path, NUMBERED.fullmatch(PurePosixPath(path).stem)) for path in paths]
    if not all(match for _, match in matches):
        return []
    return [Entry(path, match.group(1)) for path, match in matches if match]


def _by_pattern(paths: Sequence[str], pattern: str) -> Layout:
    """Read labels off paths as a person says."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"--label-from: expected a regular expression, found {pattern!r}: {error}; correct it"
        ) from None
    if not compiled.groups:
        raise UserError(f"--label-from: expected a group, as in '(.+)_', found none in {pattern!r}; add one")
    group = "label" if "label" in compiled.groupindex else 1
    entries, refused = [], []
    for path in paths:
        if (match := compiled.search(path)) and match.group(group):
            entries.append(Entry(path, match.group(group)))
        else:
            refused.append(Refused(path, "no label: its name does not match --label-from"))
    return Layout(entries, refused, [f"the classes are what {pattern} finds in the files' paths"], listed=True)


def _name(path: str) -> str:
    return path.rpartition("/")[2]
