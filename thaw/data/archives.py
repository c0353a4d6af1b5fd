"""Archives of images: zip, and tar with whatever compression. Nothing is ever written outside the folder they go to."""

import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from thaw.errors import UserError

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")
# What an archive may grow to: images hardly shrink, and one that grows more was made to fill a disk.
GROWTH, ALLOWED = 200, 2**30  # times its size, or bytes, whichever is more


def is_archive(file: Path) -> bool:
    """Whether a file is an archive, by its name."""
    return file.name.lower().endswith(SUFFIXES)


@contextmanager
def scratch(beside: Path) -> Iterator[Path]:
    """Make a folder beside a path for as long as the block takes; what a killed run has left there goes first."""
    folder = beside.with_name(f"{beside.name}.unpacked")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def unpack(archive: Path, folder: Path) -> int:
    """Unpack an archive; return how many of its members were left out.

    These are what would lie outside the folder, and what is neither a file nor a folder: links and devices.

    Raises:
        UserError: it is no complete archive, or grows without measure.
    """
    room = max(GROWTH * archive.stat().st_size, ALLOWED)
    try:
        return (_unzip if archive.suffix.lower() == ".zip" else _untar)(archive, folder, room)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"expected a complete archive at {archive}, found: {reason}; get it again") from None


def _unzip(archive: Path, folder: Path, room: int) -> int:
    left_out = 0
    with zipfile.ZipFile(archive) as zipped:
        for member in zipped.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            target = _target(folder, member.filename)
            if member.is_dir():
                continue
            if target is None or kind not in (0, stat.S_IFREG):
                left_out += 1
                continue
            with zipped.open(member) as content:
                room = _write(content, target, room, archive)
    return left_out


def _untar(archive: Path, folder: Path, room: int) -> int:
    left_out = 0
    with _opened(archive) as tar:
        for member in tar:
            target = _target(folder, member.name)
            if member.isdir():
                continue
            content = tar.extractfile(member) if member.isreg() and target else None
            if content is None or target is None:
                left_out += 1
                continue
            with content:
                room = _write(content, target, room, archive)
    return left_out


def _opened(archive: Path) -> tarfile.TarFile:
    if archive.name.lower().endswith("zst"):
        import pyarrow  # which reads what Python learns to read with 3.14

        return tarfile.open(fileobj=pyarrow.input_stream(str(archive), compression="zstd"), mode="r|")
    return tarfile.open(archive)


def _target(folder: Path, name: str) -> Path | None:
    """Where a member belongs; None if that is outside the folder."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or parts[0].startswith("/") or ".." in parts or ":" in parts[0]:
        return None
    return folder.joinpath(*parts)


def _write(content: IO[bytes], target: Path, room: int, archive: Path) -> int:
    """Write a file; return how many bytes more there may be."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        while block := content.read(1 << 20):
            room -= len(block)
            if room < 0:
                raise UserError(
                    f"expected an archive of images at {archive}, found one that grows to more than {GROWTH} times its "
                    "size; do not trust it"
                )
            file.write(block)
    return room
