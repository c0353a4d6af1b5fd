"""Tars for tests: of files in memory, or of a folder's."""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path


def save(file: Path, members: Mapping[str, bytes]) -> Path:
    """Write files into a tar, and the folders above it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file


def of(folder: Path) -> dict[str, bytes]:
    """All files of a folder, by path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def shards(folder: Path, target: Path, count: int = 2, name: str = "shard") -> Path:
    """Deal the files of a folder out to so many shards."""
    files = of(folder)
    for number in range(count):
        dealt = dict(list(files.items())[number::count])
        save(target / f"{name}-{number:06}.tar", dealt)
    return target


def names(file: Path) -> list[str]:
    """The members of a tar."""
    with tarfile.open(file) as tar:
        return tar.getnames()
