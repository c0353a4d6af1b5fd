"""What a data folder says of its files: the class, and perhaps the split and the group of each. Opens no image.

What can be understood without guessing is taken, and said in a note. What cannot be used is refused, with its reason.
An error is left for what can give no answer at all (no images, one class), and for what would falsify one (a group in
two splits). ``tables`` and ``folders`` are the two ways in which a data set says it.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from thaw.data import columns
from thaw.data.manifest import NOTHING, Split
from thaw.errors import UserError

# In the order of their use; an image that stands in two of them stays in the later one.
SPLITS: tuple[Split, ...] = ("train", "val", "test")
SPLIT_WORDS: Mapping[str, Split] = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "development", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing", "tst", "holdout"), "test"),
}
# Words that may stand beside one of them, as in train_images, seg_train or val2017.
_FILLERS = "image images img imgs photo photos picture pictures seg set data dataset of"
FILLERS = frozenset(_FILLERS.split())
# What stands beside images: a folder of such files is no class.
_BESIDE = (
    "txt md rst csv tsv json jsonl xml html htm pdf py ipynb sh m mat npy npz pkl parquet yaml yml toml cfg ini log "
    "rtf doc docx xls xlsx db sql zip tar gz tgz bz2 xz zst 7z rar h5 mp4 avi pyc lua js ts css c h cpp java r rb go rs"
)
BESIDE = frozenset(f".{ending}" for ending in _BESIDE.split())
ABOUT = {"readme", "license", "licence", "copying", "notice", "authors", "citation", "changelog", "version", "makefile"}
BARS = 20  # classes that are shown with a bar
CORRECTIONS = "corrections.csv"  # beside the images, see ``thaw.data.corrections``: about them, and none of them
CORRECTION_COLUMNS = ("path", "action", "value")

Classes = Literal["outermost", "innermost", "path"]


@dataclass(frozen=True)
class Options:
    """What a person says where a layout can be understood in several ways.

    Attributes:
        classes: which folders are the classes, where they hold folders.
        label_from: a regular expression that finds the class in a file's path, in its group ``label`` or its first one.
        path_column, label_column: of a table.
        root: the folder that a table's paths start from, if not its own.
    """

    classes: Classes = "outermost"
    label_from: str | None = None
    path_column: str | None = None
    label_column: str | None = None
    root: Path | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """What a layout says about a file: no ``split`` if it predefines none at all, ``""`` if it names no group.

    ``metadata`` is what else a table says, by column; what makes slices is left of it (see ``coherent``).
    """

    path: str
    label: str
    split: Split | None = None
    group: str = ""
    metadata: Mapping[str, str] = field(default_factory=lambda: NOTHING, hash=False)


@dataclass(frozen=True, slots=True)
class Refused:
    """A file that is not used, and why: a kind, and often ``: `` and the details."""

    path: str
    reason: str

    @property
    def kind(self) -> str:
        """The reason without its details, for counting."""
        return self.reason.partition(":")[0]


@dataclass(frozen=True)
class Layout:
    """What has been understood.

    Attributes:
        entries: the files that belong to a class, by path.
        refused: those that cannot be used.
        notes: what a person should know of how the folder was understood, a line each.
        listed: whether it takes a list to say the same again: a table or ``Options`` had a say.
        top: the folder that all of it is in, ``""`` if that is the data folder itself.
        tables: the files that say more of images which have their classes without them (see ``descriptions``).
    """

    entries: list[Entry]
    refused: list[Refused]
    notes: list[str] = field(default_factory=list)
    listed: bool = False
    top: str = ""
    tables: list[str] = field(default_factory=list)


def is_plain(text: str) -> bool:
    """Whether a name can stand in a CSV file: control characters break rows, and no UTF-8 shows as lone surrogates."""
    return not re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", text)


def is_picture(path: str) -> bool:
    """Whether a file may be an image, by its name: all that is not known to be something else."""
    suffix = suffix_of(path)
    return suffix not in BESIDE and (bool(suffix) or path.rpartition("/")[2].lower() not in ABOUT)


def suffix_of(path: str) -> str:
    """The ending of a file's name, ``.jpg``, in small letters: as pathlib has it, in a tenth of the time."""
    name = path.rpartition("/")[2]
    at = name.rfind(".")
    return name[at:].lower() if 0 < at < len(name) - 1 else ""


def split_of(name: str) -> Split | None:
    """Return the split that a folder's or file's name means; None if it means none."""
    words = [word for word in re.split(r"[^a-z]+", name.lower()) if word]
    if words[:1] == ["hold"] and words[1:2] == ["out"]:
        words[:2] = ["holdout"]
    meant = [word for word in words if word not in FILLERS]
    return SPLIT_WORDS.get(meant[0]) if len(meant) == 1 else None


def split_of_shard(tar: str) -> Split | None:
    """Return the split that the path of a shard means: its name, as imagenet-train-000012.tar, or a folder around."""
    *folders, name = tar.split("/")
    found = {SPLIT_WORDS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in SPLIT_WORDS}
    if len(found) == 1:
        return found.pop()
    return next((split for folder in reversed(folders) if (split := split_of(folder))), None)


def coherent(place: Path, layout: Layout) -> Layout:
    """Bring the classes of all splits together, refuse what cannot be learnt, and find the columns that make slices.

    Args:
        place: the folder or file to name in an error.
        layout: what was understood.

    Raises:
        UserError: there are fewer than two classes in train, or a group in two splits.
    """
    notes, refused = list(layout.notes), list(layout.refused)
    trained = {entry.label for entry in layout.entries if entry.split in (None, "train")}
    entries = _one_spelling(layout.entries, trained, notes)
    if unknown := sorted({entry.label for entry in entries} - trained) if trained else []:
        notes.append(f"not in train, and left out: the classes {quoted(unknown)}")
        refused += [
            Refused(entry.path, "a class that is not in train") for entry in entries if entry.label not in trained
        ]
        entries = [entry for entry in entries if entry.label in trained]
    labels = {entry.label for entry in entries}
    if not trained and labels:
        raise UserError(
            f"expected images to learn from in {place}, found only some of {few(_splits(entries))}; add train"
        )
    if len(labels) < 2:
        raise UserError(
            f"expected at least two classes in {place}, found {f'only {quoted(labels)}' if labels else 'none'}; "
            "add images of another class"
        )
    groups = defaultdict(set)
    for entry in entries:
        if entry.group:
            groups[entry.group].add(entry.split or "train")
    for group, splits in sorted(groups.items()):
        if len(splits) > 1:
            raise UserError(
                f"expected each group in one split in {place}, found the group {group!r} in "
                f"{' and '.join(sorted(splits))}; give all its images the same split"
            )
    for split in _splits(entries):
        if lacking := sorted(labels - {entry.label for entry in entries if entry.split == split}):
            notes.append(f"{split} has no images of {few(lacking)}")
    entries = _sliced(entries, notes)
    return replace(layout, entries=entries, refused=sorted(refused, key=lambda one: one.path), notes=notes)


def _splits(entries: Sequence[Entry]) -> list[str]:
    return [split for split in SPLITS if any(entry.split == split for entry in entries)]


def _one_spelling(entries: list[Entry], trained: set[str], notes: list[str]) -> list[Entry]:
    """Spell classes in all splits as train does, where only case, spaces, ``_`` and ``-`` differ."""

    def plain(label: str) -> str:
        return re.sub(r"[\s_-]+", "", label).casefold()

    known = Counter(map(plain, trained))
    spelt = {plain(label): label for label in trained if known[plain(label)] == 1}
    renamed = {
        entry.label: spelt[plain(entry.label)]
        for entry in entries
        if entry.label not in trained and plain(entry.label) in spelt
    }
    if renamed:
        notes.append(f"the same classes, spelt as in train: {few(f'{a} = {b}' for a, b in sorted(renamed.items()))}")
    return [replace(entry, label=renamed[entry.label]) if entry.label in renamed else entry for entry in entries]


def _sliced(entries: Sequence[Entry], notes: list[str]) -> list[Entry]:
    """Leave of what tables say beside path, label, split and group the columns that make slices."""
    if not any(entry.metadata for entry in entries):
        return [*entries]
    found, ignored = columns.chosen([entry.metadata for entry in entries], [entry.label for entry in entries])
    if kept := {name: len({one[name] for one in found}) for name in found[0]}:
        notes.append(f"slices: {few((f'by {name}: {count}' for name, count in kept.items()), 10)}")
    if ignored:
        notes.append(f"columns that are left out: {few(ignored)}")
    return [replace(entry, metadata=one) for entry, one in zip(entries, found, strict=True)]


def described(layout: Layout) -> list[str]:
    """Say what was understood: the classes with a bar each, the notes, and what is not used, a line each."""
    count = Counter(entry.label for entry in layout.entries)
    width, most = min(40, max(map(len, count))), max(count.values())
    lines = [f"{len(layout.entries):,} images in {len(count)} classes"]
    for name in sorted(count)[:BARS]:
        lines.append(f"  {name:<{width}} {count[name]:>7,} {'█' * max(1, round(30 * count[name] / most))}")
    if len(count) > BARS:
        lines.append(f"  and {len(count) - BARS} more classes; of all, {min(count.values()):,} to {most:,} images")
    lines += [f"  {note}" for note in layout.notes]
    kinds = Counter(one.kind for one in layout.refused)
    return [*lines, *(f"  not used: {number:,} x {kind}" for kind, number in sorted(kinds.items()))]


def few(names: Iterable[str], most: int = 5) -> str:
    """Name a few of many."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def quoted(names: Iterable[str]) -> str:
    """Name all, in quotes."""
    return " and ".join(repr(name) for name in sorted(names))
