"""What lies below the URL of a store, as a folder: a stand-in for each tar, and copies of the tables beside them.

So data in a store are understood, brought and kept as if they were at hand; only ``shards`` knows that they are not.
"""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from thaw.artifacts import cache, fingerprint, write_text
from thaw.data import objects, samples, shards, tables
from thaw.data.layouts import CORRECTIONS, few, is_plain, suffix_of
from thaw.data.objects import Object
from thaw.errors import UserError

AT_ONCE = 8  # tars whose headers are read
FORMAT = 1  # of stand-ins: another one, and none of the cache is used
BESIDE = {*samples.NAMES, CORRECTIONS}  # what is copied, beside tables


def mirror(url: str, folder: Path) -> str:
    """Mirror what is below a URL in a folder; say what stays where it is.

    The stand-ins of tars are kept in the cache: nothing is read twice that has not changed.

    Args:
        url: of some tars, or of one.
        folder: an empty one.

    Raises:
        UserError: the store does not answer, or there are no tars.
    """
    listed = {path: one for path, one in objects.below(url).items() if not path.endswith("/")}
    found = {path: one for path, one in sorted(listed.items()) if _is_sound(path)}
    tars = {path: one for path, one in found.items() if path.lower().endswith(shards.SUFFIX)}
    packed = [path for path in found if path.lower().endswith(shards.COMPRESSED)]
    beside = [path for path in found if suffix_of(path) in tables.SUFFIXES or Path(path).name in BESIDE]
    if not tars and not packed:
        raise UserError(
            f"expected tars below {url}, which are read there, found {few(sorted(listed))}; 'python -m stages.get_data "
            f"folder FOLDER --shards' packs images into some"
        )
    for path in (*tars, *packed, *beside):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
    for path in packed:
        (folder / path).touch()  # what is to be said of them depends on the name alone
    for path in beside:
        objects.copy(found[path], folder / path)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        kept = pool.map(_stand_in, tars.values())
        for path, file in zip(tars, tqdm(kept, "headers", len(tars), disable=None, unit="shard"), strict=True):
            shutil.copyfile(file, folder / path)
    gigabytes = sum(one.bytes for one in tars.values()) / 1e9
    others = len(listed) - len(tars) - len(packed) - len(beside)
    left_out = f"; files that are in no shard, and not used: {others:,}" if others else ""
    return f"shards that stay in {url}: {len(tars):,} ({gigabytes:,.1f} GB){left_out}"


def _is_sound(path: str) -> bool:
    """Whether an object, whose name may be anything, can be a file of that path."""
    parts = path.split("/")
    is_path = all(is_plain(part) and "\\" not in part and part not in ("", ".", "..") for part in parts)
    return is_path and not any(part.lower().endswith(shards.SUFFIX) for part in parts[:-1])


def _stand_in(tar: Object) -> Path:
    file = cache() / "shards" / f"{fingerprint(FORMAT, tar.url, tar.bytes, tar.version)}.json"
    if not (tar.version and file.exists()):
        write_text(file, shards.stand_in(tar))
    return file
