"""What a person has put right in the data: wrong labels, pictures that do not belong, pictures of the same object.

``data/corrections.csv`` says it, and travels with the images, which are never changed. It has a row for each:

- ``cats/1.jpg,keep,``: the label is right;
- ``cats/2.jpg,relabel,dogs``: it is of the class in ``value``;
- ``cats/3.jpg,remove,``: it is left out;
- ``cats/4.jpg,same,dogs/9.jpg``: both show the same object;
- ``cats/5.jpg,different,cats/6.jpg``: they do not, however alike they look.

What is said of the label of a picture holds for files with the very same content, too, of which nothing is said.
"""

import csv
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast, get_args

from thaw.artifacts import atomic
from thaw.config.wording import near, nearest, unknown
from thaw.data import shards, tables
from thaw.data.files import is_corrections
from thaw.data.layouts import CORRECTION_COLUMNS, CORRECTIONS, SPLITS, Refused, few, is_plain, quoted
from thaw.data.manifest import SAME, Record
from thaw.errors import UserError

Action = Literal["keep", "relabel", "remove", "same", "different"]
PAIR = ("same", "different")  # the actions that are about two images
IN_TWO_CLASSES = "in two classes"  # why images that show the same are refused
FEW = 10  # images of a new class, below which a name that is like another class's may be a slip
DONE: Mapping[Action, str] = {"relabel": "relabelled", "remove": "removed", "keep": "kept"}


@dataclass(frozen=True, slots=True, order=True)
class Correction:
    """What is true of an image: ``path`` as in the manifest; ``value`` is a class, the other image, or ``""``."""

    path: str
    action: Action
    value: str = ""

    @property
    def paths(self) -> tuple[str, ...]:
        """The images that it is about: on one, and on a pair of them, there is one verdict."""
        return (self.path, self.value) if self.action in PAIR else (self.path,)

    def moved(self, source: str, target: str) -> "Correction":
        """The same of images that lie elsewhere: their paths begin with ``target`` instead of ``source``."""
        return self.about([target + path.removeprefix(source) for path in self.paths])

    def about(self, paths: Sequence[str]) -> "Correction":
        """The same of other images, as many as ``paths`` has."""
        return pair(paths[0], self.action, paths[1]) if self.action in PAIR else replace(self, path=paths[0])


def read(file: Path) -> list[Correction]:
    """Read corrections, each once, sorted; the order of the rows has no say. ``corrections.js`` reads the same.

    Raises:
        UserError: there is no such file, a row is none of them, or two rows contradict each other.
    """
    if not file.is_file():
        raise UserError(f"expected corrections in {file}, found no such file; name the one that the page has saved")
    found_columns, rows = tables.read(file)
    columns = list(CORRECTION_COLUMNS)
    for name in found_columns:
        if name not in columns:
            raise UserError(f"{file}: {unknown(name, columns)}")
    if lacking := [name for name in columns if name not in found_columns]:
        raise UserError(f"{file}: expected the columns {', '.join(columns)}, found no {lacking[0]!r}; add it")
    return _agreed(file, (_correction(f"{file}, row {number}", row) for number, row in enumerate(rows, start=2)))


def of(data: Path) -> list[Correction]:
    """Read the corrections of a data folder, where a person may have written; none if it has none.

    Raises:
        UserError: see ``read``.
    """
    file = data / CORRECTIONS
    return meant(file, lambda path: shards.is_file(data / path)) if is_corrections(file) else []


def meant(file: Path, is_there: Callable[[str], bool]) -> list[Correction]:
    """Read corrections, without spaces around a path where there is no image of that name, and one without them.

    Raises:
        UserError: see ``read``; or it is so without the spaces.
    """

    def path(said: str) -> str:
        bare = said.strip()
        return bare if bare != said and not is_there(said) and is_there(bare) else said

    return _agreed(file, (one.about([path(said) for said in one.paths]) for one in read(file)))


def _agreed(file: Path, given: Iterable[Correction]) -> list[Correction]:
    """Return corrections, each once, sorted, which must be of one mind about an image, and of pairs of two images."""
    found = sorted({*given})
    verdicts: dict[tuple[str, ...], Correction] = {}
    for one in found:
        if one.action in PAIR and one.path == one.value:
            raise UserError(f"{file}: expected two images with {one.action}, found {one.path!r} twice; correct it")
        if verdicts.setdefault(one.paths, one) != one:
            both = " and ".join(f"{other.action} {other.value}".strip() for other in (verdicts[one.paths], one))
            raise UserError(f"{file}: expected one verdict on {one.path!r}, found {both}; remove one of the rows")
    return found


def _correction(place: str, row: dict[str, str]) -> Correction:
    path, action = row["path"], row["action"].strip()
    value = row["value"] if action in PAIR else row["value"].strip()  # a name of a file may end in a space
    actions = list(get_args(Action))
    if action not in actions:
        raise UserError(
            f"{place}: expected the action {', '.join(actions[:-1])} or {actions[-1]}, "
            f"found {action!r}{nearest(action, actions)}; correct it"
        )
    wanted = {"relabel": "a class"}.get(action, "the path of another image" if action in PAIR else "nothing")
    is_wrong = bool(value.strip()) == (wanted == "nothing") or not is_plain(value) or (action in PAIR and value == path)
    if not path.strip() or is_wrong:
        raise UserError(
            f"{place}: expected a path and, with {action}, {wanted} in the column value, found {path!r} and "
            f"{value!r}; correct it"
        )
    if action in PAIR:
        return pair(path, cast(Action, action), value)
    return Correction(path, cast(Action, action), value)


def pair(one: str, action: Action, other: str) -> Correction:
    """What is said of two images, the same whichever is named first."""
    first, second = sorted((one, other))
    return Correction(first, action, second)


def write(file: Path, given: Iterable[Correction]) -> None:
    """Write corrections, sorted: the same bytes for the same ones."""
    with atomic(file) as partial, partial.open("w", newline="", encoding="utf-8") as out:
        rows = csv.writer(out, lineterminator="\n")
        rows.writerow(CORRECTION_COLUMNS)
        rows.writerows((one.path, one.action, one.value) for one in sorted(given))


def merge(old: Iterable[Correction], new: Iterable[Correction]) -> list[Correction]:
    """Put corrections together: of an image, and of a pair of images, there is one verdict, the newer."""
    return sorted({one.paths: one for one in (*old, *new)}.values())


def counted(given: Iterable[Correction]) -> str:
    """Say how many there are of each kind: ``2 relabelled, 1 removed, 1 kept, 1 pair, 1 told apart``."""
    count = Counter(one.action for one in given)
    said = [f"{count[action]} {done}" for action, done in DONE.items() if count[action]]
    pairs = f"{count['same']} pair{'s' if count['same'] > 1 else ''}"
    apart = [f"{count['different']} told apart"] if count["different"] else []
    return ", ".join([*said, *([pairs] if count["same"] else []), *apart]) or "none"


def anew(given: Iterable[Correction], labels: Iterable[str]) -> list[str]:
    """Say which classes corrections make beside those that there are, a line each; the last ask if it was a slip."""
    there = sorted({*labels})
    made = Counter(one.value for one in given if one.action == "relabel" and one.value not in there)
    meant, asked = list[str](), list[str]()
    for name, count in sorted(made.items()):
        images = f"{count} image{'' if count == 1 else 's'}"
        if count < FEW and (other := near(name, there)):
            asked.append(
                f"did you mean {other!r}? {name!r} is a new class, of {images}: if it is a slip, relabel again"
            )
        else:
            meant.append(f"a new class: {name!r}, {images}")
    return [*meant, *asked]


def apply(records: Iterable[Record], given: Iterable[Correction]) -> tuple[list[Record], list[Refused]]:
    """Give images the labels that they should have; return those that stay, and those that are left out.

    Identical files of which nothing is said have the label that is right for the others, if there is one such.
    """
    listed, verdicts = list(records), {one.path: one for one in given if one.action not in PAIR}
    right: dict[str, set[str]] = defaultdict(set)  # labels, by content
    for record in listed:
        match verdicts.get(record.path):
            case Correction(action="relabel", value=label):
                right[record.sha256].add(label)
            case Correction(action="keep"):
                right[record.sha256].add(record.label)
    stay, left_out = list[Record](), list[Refused]()
    for record in listed:
        match verdicts.get(record.path):
            case Correction(action="remove"):
                left_out.append(Refused(record.path, "removed by a correction"))
            case Correction(action="relabel", value=label):
                stay.append(replace(record, label=label))
            case None if len(right[record.sha256]) == 1:
                stay.append(replace(record, label=min(right[record.sha256])))
            case _:
                stay.append(record)
    return stay, left_out


def together(records: Iterable[Record], given: Iterable[Correction], *, groups: bool = False) -> list[list[Record]]:
    """Put together the images that show one object: exact copies, and what corrections say, also by way of others.

    Args:
        records: the images.
        given: the corrections; an image that they name may be there no more, and still joins two others.
        groups: whether the images of a group that the data name belong together as well.

    Returns:
        The sets of two images and more.
    """
    above: dict[tuple[str, str], tuple[str, str]] = {}  # a forest; each set has one root

    def root(node: tuple[str, str]) -> tuple[str, str]:
        while (parent := above.setdefault(node, node)) != node:
            above[node] = above[parent]
            node = above[parent]
        return node

    listed, links = list(records), [link for link in given if link.action == "same"]
    copies, linked = Counter(one.sha256 for one in listed), {path for link in links for path in link.paths}
    # Of a million images, few are together with another one.
    listed = [one for one in listed if copies[one.sha256] > 1 or one.path in linked or (groups and one.group)]
    for one in listed:
        above[root(("path", one.path))] = root(("content", one.sha256))
        if groups and one.group:
            above[root(("path", one.path))] = root(("group", one.group))
    for link in links:
        above[root(("path", link.path))] = root(("path", link.value))
    sets = defaultdict(list)
    for one in listed:
        sets[root(("path", one.path))].append(one)
    return [same for same in sets.values() if len(same) > 1]


def group(records: Sequence[Record], given: Sequence[Correction]) -> list[Record]:
    """Make groups of what corrections say is the same object, so that it ends up in one split.

    Such a group is named as the data name the group of one of its images, the first by name; else by the smallest
    content hash in it, and that image keeps its place (see ``Record.unit``).
    """
    linked = {path for one in given if one.action == "same" for path in one.paths}
    names: dict[str, str] = {}
    for same in together(records, given, groups=True):
        if any(one.path in linked for one in same):
            name = min((one.group for one in same if one.group), default=SAME + min(one.sha256 for one in same))
            names |= dict.fromkeys((one.path for one in same), name)
    return [replace(one, group=names.get(one.path, one.group)) for one in records]


def surplus(records: Iterable[Record], given: Iterable[Correction]) -> dict[str, Refused]:
    """Find, of images that show one object, all but one, by path.

    The one that stays is in test rather than in val, and there rather than in train, as far as the data predefine
    splits; of several, it is the first by path. Where they are of several classes, at least one label is wrong, and as
    with exact copies none of them stays.
    """
    found: dict[str, Refused] = {}
    for same in together(records, given):
        if len(labels := sorted({one.label for one in same})) > 1:
            reason = f"{IN_TWO_CLASSES}: the same object is labelled {quoted(labels)}"
            found |= {one.path: Refused(one.path, reason) for one in same}
            continue
        first = min(same, key=lambda one: (-SPLITS.index(one.split), one.path))
        for one in same:
            if one is not first:
                is_copy = one.sha256 == first.sha256
                reason = f"a copy: the same image is {first.path!r}" if is_copy else f"the same object: {first.path!r}"
                found[one.path] = Refused(one.path, reason)
    return found


def straddling(records: Iterable[Record], given: Iterable[Correction]) -> list[str]:
    """Say, if it is so, that images which show one object stand in several splits; at most one line."""
    named = []
    for same in together(records, given):
        by_split = {one.split: one.path for one in sorted(same, key=lambda one: one.path, reverse=True)}
        if len(by_split) > 1:
            named.append(" and ".join(f"{by_split[split]} ({split})" for split in SPLITS if split in by_split))
    if not named:
        return []
    what = (
        f"{len(named)} groups of the same object straddle" if len(named) > 1 else "1 group of the same object straddles"
    )
    return [f"{what} the data's own splits: {few(sorted(named))}; with dedupe: drop, one image of each stays"]
