"""Images packed into tar shards, which WebDataset names so: a million files are more than DVC and file systems like.

The same images make the same shards, to the byte. A shard ends after an image whose name has a hash that says so, or
where it is full: so a new image changes the shard that it comes into, or divides it, and the others keep their content,
though those that follow may get other numbers.
"""

import hashlib
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

ABOVE = 100_000  # images: of more, ``get_data`` makes shards unless it is told otherwise
IMAGES, BYTES = 2_000, 200 * 10**6  # of a shard, at most
MEAN = 1_000  # images of a shard, where hashes end it


def pack(files: Sequence[tuple[Path, str]], folder: Path) -> dict[str, str]:
    """Pack files into ``shard-000000.tar`` and so on.

    Args:
        files: each with the path that it is to have in its shard.
        folder: a folder for the shards.

    Returns:
        The path of each file in ``folder``, by the one in its shard.

    Raises:
        OSError: a file cannot be read; its ``filename`` says which.
    """
    folder.mkdir(parents=True, exist_ok=True)
    packed: dict[str, str] = {}
    with tqdm(total=len(files), desc="pack", disable=None, unit="file") as bar:
        for number, group in enumerate(_divided(sorted(files, key=lambda one: one[1]))):
            shard = f"shard-{number:06}.tar"
            with tarfile.open(folder / shard, "w", format=tarfile.PAX_FORMAT) as tar:
                for file, name in group:
                    member = tarfile.TarInfo(name)  # which has no date, owner or rights of its own
                    with file.open("rb") as content:
                        member.size = file.stat().st_size
                        tar.addfile(member, content)
                    packed[name] = f"{shard}/{name}"
            bar.update(len(group))
    return packed


def _divided(files: Iterable[tuple[Path, str]]) -> Iterator[list[tuple[Path, str]]]:
    """Divide sorted files into those of each shard."""
    group, size = list[tuple[Path, str]](), 0
    for file, name in files:
        length = file.stat().st_size
        if group and (len(group) == IMAGES or size + length > BYTES):
            yield group
            group, size = [], 0
        group.append((file, name))
        size += length
        if int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % MEAN == 0:
            yield group
            group, size = [], 0
    if group:
        yield group
