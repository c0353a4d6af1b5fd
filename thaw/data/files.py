"""The files of a data set: those of a folder, and of tars in it (see ``shards``)."""

import glob
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from thaw.data import images, shards
from thaw.data.layouts import CORRECTION_COLUMNS, CORRECTIONS, Refused, is_plain, suffix_of
from thaw.errors import UserError

JUNK = {"__macosx", "thumbs.db", "desktop.ini", "$recycle.bin", "system volume information"}
# shard-000012.tar, 00012.tar: a shard also where images lie beside it
NUMBERED_SHARD = re.compile(r"(.*[\W_])?\d{5,}\.(tar|tgz)(\.\w+)?", re.IGNORECASE)
COMPRESSED, BROKEN = "a compressed tar", "a broken shard"  # why tars are refused
IN_PLACE = "images are read in place, which compression forbids; decompress it (gunzip, unxz, zstd -d)"


@dataclass
class Listing:
    """The files of a folder, relative and '/'-separated, sorted; what is none that can be used; its folders.

    ``shards`` are tars that stand for what is in them, see ``listing``; ``paths`` has their members.
    """

    paths: list[str] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    shards: list[str] = field(default_factory=list)


def listing(folder: Path) -> Listing:
    """List every file below ``folder`` but corrections and what is hidden or left there by a system, whatever it is.

    A link to a folder is followed, once; never one to a folder above it. Tars are listed as if they were folders, where
    no images lie beside them, or where they are numbered like shards.
    """
    found = _files(folder)
    has_loose = any(suffix_of(path) in images.SUFFIXES for path in found.paths)
    packed = [
        path
        for path in found.paths
        if path.lower().endswith((shards.SUFFIX, *shards.COMPRESSED))
        and (not has_loose or NUMBERED_SHARD.fullmatch(path.rpartition("/")[2]))
    ]
    if not packed:
        return found
    others = {*packed}
    found.paths = [path for path in found.paths if path not in others]
    found.shards = [path for path in packed if path.lower().endswith(shards.SUFFIX)]
    others -= {*found.shards}
    found.refused += [Refused(path, f"{COMPRESSED}: {IN_PLACE}") for path in sorted(others)]
    for tar in found.shards:
        _list_shard(folder, tar, found)
    found.paths.sort()
    return found


def _list_shard(folder: Path, tar: str, found: Listing) -> None:
    """List what is in a shard."""
    try:
        held = shards.contents(folder / tar)
    except OSError as error:
        found.refused.append(Refused(tar, f"unreadable: {error.strerror}"))
        return
    names = held.listed()
    kept = [name for name in names if not any(map(_is_hidden, name.split("/")))]
    found.paths += [f"{tar}/{name}" for name in kept if is_plain(name)]
    unreadable = "a name that is not printable UTF-8"
    left_out = [*held.left_out, *((name, unreadable) for name in kept if not is_plain(name))]
    found.refused += [
        Refused(f"{tar}/{name if is_plain(name) else ascii(name)[1:-1]}", reason) for name, reason in left_out
    ]
    if held.broken.startswith("compressed"):
        found.refused.append(Refused(tar, f"{COMPRESSED}: {held.broken}; {IN_PLACE}"))
    elif held.broken:
        used = f"what is before that ({len(names):,} files) is used" if names else "nothing in it can be used"
        found.refused.append(Refused(tar, f"{BROKEN}: {held.broken}; {used}; get it again"))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in JUNK


def _files(folder: Path) -> Listing:
    """Do as ``listing`` does, but for what is in tars."""
    found, followed = Listing(), set[tuple[int, int]]()

    def walk(here: Path, above: frozenset[tuple[int, int]]) -> None:
        try:
            inside = sorted(os.scandir(here), key=lambda one: one.name)
        except OSError as error:
            found.refused.append(Refused(_said(here, folder), f"unreadable folder: {error.strerror}"))
            return
        for one in inside:
            if _is_hidden(one.name):
                continue
            path = Path(one.path)
            said = _said(path, folder)
            if not is_plain(one.name):
                found.refused.append(Refused(said, "a name that is not printable UTF-8"))
                continue
            try:
                state = path.stat()  # of an entry, Windows knows less
                identity = (state.st_dev, state.st_ino)
                is_folder, is_file = one.is_dir(), one.is_file()
            except OSError as error:
                broken = one.is_symlink() and not path.exists()
                reason = "a link to nothing" if broken else f"unreadable: {error.strerror}"
                found.refused.append(Refused(said, reason))
                continue
            if is_folder and one.is_symlink() and identity in above:
                found.refused.append(Refused(said, "a link to a folder around it"))
            elif is_folder and one.is_symlink() and identity in followed:
                found.refused.append(Refused(said, "a link to a folder that another link leads to"))
            elif is_folder:
                if one.is_symlink():
                    followed.add(identity)
                found.folders.append(said)
                walk(path, above | {identity})
            elif is_file:
                if not is_corrections(path):
                    found.paths.append(said)
            else:
                found.refused.append(Refused(said, "neither a file nor a folder"))

    top = folder.stat()
    walk(folder, frozenset({(top.st_dev, top.st_ino)}))
    found.paths.sort()
    return found


def is_corrections(file: Path) -> bool:
    """Whether there is a file of corrections, by its name and its columns."""
    if file.name != CORRECTIONS or not file.is_file():
        return False
    with suppress(OSError), file.open("rb") as content:
        start = content.read(1000).replace(b"\0", b"")  # spreadsheets may write UTF-16
        first = next((line for line in re.split(rb"[\r\n]", start) if re.search(rb"\w", line)), b"")
        return sorted(re.findall(rb"\w+", first)) == sorted(name.encode() for name in CORRECTION_COLUMNS)
    return False


def _said(path: Path, folder: Path) -> str:
    text = path.relative_to(folder).as_posix()
    return text if is_plain(text) else ascii(text)[1:-1]


def find_pictures(names: Sequence[str]) -> list[Path]:
    """Return the files that are meant, each once: those named, those in folders named, those that patterns match.

    Raises:
        UserError: a name means nothing.
    """
    found: dict[Path, None] = {}
    for name in names:
        path = Path(name).expanduser()
        # Path.glob takes no absolute patterns.
        matches = [path]
        if not path.exists() and not shards.divided(path):
            matches = [Path(one) for one in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207
        files = [file for match in matches for file in _inside(match)]
        if not files:
            raise UserError(f"expected a picture, a folder of them or a pattern, found nothing at {name}; correct it")
        found |= dict.fromkeys(files)
    return list(found)


def _inside(path: Path) -> list[Path]:
    """The pictures in a folder or a tar, after a word on tars that cannot be read; any other file itself."""
    files = Listing()
    if path.is_dir():
        files = listing(path)
    elif path.suffix.lower() == shards.SUFFIX:
        _list_shard(path.parent, path.name, files)
        path = path.parent
    else:
        return [path]
    for one in files.refused:
        if one.path.lower().endswith((shards.SUFFIX, *shards.COMPRESSED)):
            print(f"note: {path / one.path}: {one.reason}", file=sys.stderr)
    return [path / file for file in files.paths if suffix_of(file) in images.SUFFIXES]
