"""Images in tar files, read where they lie: a member is found by its offset, and nothing is unpacked.

A member has a path like that of a file, as if its tar were a folder: ``shard-000012.tar/cats/7.jpg``. What takes a path
here takes a file's as well. Of each tar the headers are read once per process; of a member its name and 16 bytes are
kept, some 40 MB of a million.

A tar may lie in an object store. In its place is then a stand-in: a small file of the same name, which says where the
tar is and what it holds, so that its headers are read once and for all. Nothing else here knows the difference.
"""

import errno
import io
import json
import os
import re
import tarfile
import threading
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from thaw.data import objects
from thaw.data.objects import Object
from thaw.errors import UserError

SUFFIX = ".tar"
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")
_STAND_IN = b'{"tar": '  # begins one; a tar begins with the name of its first member
_END = re.compile(re.escape(SUFFIX) + "(?=/)", re.IGNORECASE)
_PACKERS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_KINDS = {tarfile.SYMTYPE: "a link", tarfile.LNKTYPE: "a link", tarfile.FIFOTYPE: "a pipe"}


@dataclass(frozen=True)
class Contents:
    """What a tar holds.

    Attributes:
        names: of the members that can be read (UTF-8), sorted, each once.
        starts, sizes: where the content of each begins, and how long it is, in bytes.
        left_out: other members than folders, and why they cannot be read.
        broken: what is wrong with the tar itself; ``""`` if nothing is. What comes before can be read.
        origin: where the tar is, if it is in a store.
    """

    names: NDArray[np.bytes_]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    left_out: list[tuple[str, str]]
    broken: str = ""
    origin: Object | None = None

    def listed(self) -> list[str]:
        """The names as texts."""
        return [name.decode("utf-8", "surrogateescape") for name in self.names.tolist()]

    def place(self, name: str) -> tuple[int, int] | None:
        """Where the content of a member begins, and its length; None if there is no such member."""
        key = name.encode("utf-8", "surrogateescape")
        if len(key) > self.names.itemsize or not len(self.names):
            return None
        at = int(np.searchsorted(self.names, np.bytes_(key)))
        found = at < len(self.names) and self.names[at] == key
        return (int(self.starts[at]), int(self.sizes[at])) if found else None


def opened(path: Path) -> io.BufferedReader | io.BytesIO:
    """Open a file, or a member of a tar, which is then in memory.

    Raises:
        OSError: there is none, or it cannot be read.
    """
    if (inside := divided(path)) is None:
        return path.open("rb")
    return io.BytesIO(content(*inside))


def content(tar: Path, name: str) -> bytes:
    """Read a member of a tar.

    Raises:
        OSError: there is none of that name, or it cannot be read.
    """
    return next(read(tar, [name]))


def read(tar: Path, names: Iterable[str]) -> Iterator[bytes]:
    """Read some members of a tar.

    Raises:
        OSError: there is none of a name, or it cannot be read.
    """
    held = contents(tar)
    with objects.opened(held.origin) if held.origin else tar.open("rb") as file:
        for name in names:
            if (place := held.place(name)) is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(tar / name))
            start, length = place
            file.seek(start)
            found = file.read(length)
            if len(found) < length:
                raise OSError(errno.EIO, "its shard ends before it does")
            yield found


def size(path: Path) -> int:
    """How many bytes a file, or a member of a tar, has.

    Raises:
        OSError: there is none.
    """
    if (inside := divided(path)) is None:
        return path.stat().st_size
    if (place := contents(inside[0]).place(inside[1])) is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    return place[1]


def is_file(path: Path) -> bool:
    """Whether there is such a file, or such a member of a tar."""
    inside = divided(path)
    return contents(inside[0]).place(inside[1]) is not None if inside else path.is_file()


def divided(path: Path) -> tuple[Path, str] | None:
    """Return the tar that a path leads into, and the member's name; None if it leads into none."""
    text = path.as_posix()
    for match in _END.finditer(text):
        tar = text[: match.end()]
        if tar in _known or Path(tar).is_file():
            return Path(tar), text[match.end() + 1 :]
    return None


def tar_of(path: str, tars: Container[str]) -> str:
    """Return the one of some tars that a path leads into; ``""`` if it leads into none."""
    ends = (path[: match.end()] for match in _END.finditer(path))
    return next((tar for tar in ends if tar in tars), "")


_known: dict[str, tuple[tuple[int, int], Contents]] = {}
_lock = threading.Lock()


def contents(tar: Path) -> Contents:
    """Return what a tar holds: read once, and anew when it has changed.

    Raises:
        OSError: it cannot be opened.
    """
    state = tar.stat()
    version = (state.st_mtime_ns, state.st_size)
    name = tar.as_posix()
    if (known := _known.get(name)) and known[0] == version:
        return known[1]
    with _lock:  # threads that decode come to a new shard at the same time
        if not (known := _known.get(name)) or known[0] != version:
            known = _known[name] = (version, _read(tar, state.st_size))
    return known[1]


def stand_in(tar: Object) -> str:
    """Go over the headers of a tar in a store; return what a stand-in for it says.

    Raises:
        UserError: it cannot be read.
    """
    with objects.opened(tar) as content:
        held = _scan(content, tar.bytes)
    members = zip(held.listed(), held.starts.tolist(), held.sizes.tolist(), strict=True)
    said = {"tar": asdict(tar), "broken": held.broken, "left_out": held.left_out, "members": [*members]}
    return json.dumps(said) + "\n"


def _read(tar: Path, length: int) -> Contents:
    with tar.open("rb") as file:
        if file.read(len(_STAND_IN)) != _STAND_IN:
            return _scan(file, length)
    try:
        said = json.loads(tar.read_bytes())
        places = {name.encode("utf-8", "surrogateescape"): (start, size) for name, start, size in said["members"]}
        left_out = [(name, reason) for name, reason in said["left_out"]]
        return replace(_contents(places, left_out, said["broken"]), origin=Object(**said["tar"]))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError(f"{tar}: expected what stands for a tar in a store, found it damaged; get it again") from None


def _scan(file: BinaryIO, length: int) -> Contents:
    """Go over the headers of a tar; of members of the same name the last one counts, as when it is unpacked."""
    places: dict[bytes, tuple[int, int]] = {}
    left_out: list[tuple[str, str]] = []
    broken = ""
    file.seek(0)
    start = file.read(6)
    try:
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r:", tarinfo=_Header) as archive:
            for member in archive:
                parts = [part for part in member.name.split("/") if part not in ("", ".")]
                reason = _reason(member, parts)
                if not reason and not 0 <= member.size <= length - member.offset_data:
                    broken = f"it ends within {member.name!a}"
                    break
                if not reason:
                    places["/".join(parts).encode("utf-8", "surrogateescape")] = (member.offset_data, member.size)
                elif not member.isdir():
                    left_out.append((member.name, reason))
            file.seek(archive.offset)
            end = file.read(tarfile.BLOCKSIZE)
            if not broken and end.strip(b"\0"):
                broken = f"a damaged header at byte {archive.offset:,}"
            elif not broken and len(end) < tarfile.BLOCKSIZE:
                broken = "it does not end as tars do, and may have been cut off"
    except (tarfile.TarError, ValueError, OverflowError) as error:
        packed = next((name for magic, name in _PACKERS.items() if start.startswith(magic)), "")
        broken = f"compressed with {packed}" if packed else " ".join(str(error).split()) or "no tar"
    return _contents(places, left_out, broken)


def _contents(places: dict[bytes, tuple[int, int]], left_out: list[tuple[str, str]], broken: str) -> Contents:
    names = sorted(places)
    return Contents(
        np.array(names, np.bytes_) if names else np.empty(0, "S1"),
        np.array([places[name][0] for name in names], np.int64),
        np.array([places[name][1] for name in names], np.int64),
        left_out,
        broken,
    )


class _Header(tarfile.TarInfo):
    """A header that is read in less than half the time, where it is that of a plain file; else as tarfile does."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Read a header: a block of 512 bytes."""
        with suppress(ValueError):
            is_plain = buf[156:157] == b"0" and buf[257:263] == b"ustar\0" and buf[345:346] == b"\0"
            if is_plain and int(buf[148:154], 8) == sum(buf) - sum(buf[148:156]) + 8 * ord(" "):
                header = cls(buf[:100].partition(b"\0")[0].decode(encoding, errors))
                header.size = int(buf[124:135], 8)
                return header
        return super().frombuf(buf, encoding, errors)


def _reason(member: tarfile.TarInfo, parts: Sequence[str]) -> str:
    """Why a member cannot be read in place; nothing if it can."""
    if not parts or member.name.startswith("/") or ".." in parts:
        return "a path that leads out of its shard"
    if member.issparse():
        return "a sparse file in a shard: pack it as a plain one"
    return "" if member.isreg() else f"neither a file nor a folder: {_KINDS.get(member.type, 'a device')} in a shard"
