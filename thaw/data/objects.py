"""Files in a store (``s3://…``, or whatever fsspec has a protocol for), read by range requests; and written, whole.

What is read comes in blocks; who reads one block after the other has the next ones fetched meanwhile. Credentials and
endpoints are those of the environment, as each store's tools have them (``AWS_ACCESS_KEY_ID``, ``AWS_PROFILE``,
``AWS_ENDPOINT_URL``); none is kept. A store that does not answer says nothing of an image, so that is always an error,
never an unusable file.
"""

import io
import re
import shutil
import threading
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from thaw.errors import UserError, shortened

BLOCK = 2**20  # bytes that are fetched at once: of photos some ten, and hardly slower to get than one
AHEAD = 8  # blocks that are fetched before they are asked for
KEPT = 128  # blocks in memory
REQUESTS = 16  # at the same time
# Of a store that does not answer, botocore would know only after minutes; so it does within some ten seconds.
RETRIES = {"mode": "standard", "total_max_attempts": 4}
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "s3": {"config_kwargs": {"connect_timeout": 5, "max_pool_connections": REQUESTS, "retries": RETRIES}}
}
# How stores call what tells one version of an object from another; the first one counts.
VERSIONS = ("ETag", "etag", "md5Hash", "Content-MD5", "Digest", "Last-Modified", "mtime")


class ChangedError(UserError):
    """An object is no longer what was found, or is gone."""


@dataclass(frozen=True)
class Object:
    """A file in a store.

    Attributes:
        url: where it is.
        bytes: how long it is.
        version: what the store says of its content, mostly an ETag; ``""`` if it says nothing.
    """

    url: str
    bytes: int
    version: str

    def __str__(self) -> str:
        return f"{self.bytes:,} bytes{f', version {self.version}' if self.version else ''}"


def is_url(place: str) -> bool:
    """Whether something is the URL of a store, and no path."""
    return "://" in place


def below(url: str) -> dict[str, Object]:
    """Do as ``listed`` does, where there has to be something.

    Raises:
        UserError: see ``listed``; or there is nothing.
    """
    found = listed(url)
    if not found:
        raise _unread(url, FileNotFoundError("nothing there"))
    return found


def listed(url: str) -> dict[str, Object]:
    """Find all files below a URL.

    Returns:
        Each file by its path below it; if the URL is that of a file, this one, by its name.

    Raises:
        UserError: the store does not answer, or not to these credentials.
    """
    is_page = url.startswith(("http://", "https://"))
    if re.match(r"[^/]*//[^/@]*:[^/@]*@", url) or (is_page and "?" in url):
        raise UserError(
            "expected a URL that is no secret, as data/ keeps it, found one with a password or a query; leave that "
            "out, and let the environment have the credentials"
        )
    store = _store(url)
    try:
        top = store._strip_protocol(url).rstrip("/")
        if is_page:  # of links, which says nothing of what they lead to
            infos = {path: store.info(path) for path in store.find(url) or [url]}
        else:
            infos = store.find(url, detail=True)
    except Exception as error:
        raise _unread(url, error) from None
    return {
        path.removeprefix(top).lstrip("/") or path.rpartition("/")[2]: _object(store.unstrip_protocol(path), info)
        for path, info in infos.items()
    }


def read(source: Object, start: int, length: int) -> bytes:
    """Read some bytes of an object; any number of threads may do so.

    Raises:
        UserError: it cannot be read, or has changed.
    """
    length = min(length, source.bytes - start)
    if length <= 0:
        return b""
    first, last = start // BLOCK, (start + length - 1) // BLOCK
    with _lock:
        state = _due(source, None)
        blocks = [_due(source, number) for number in range(first, last + 1)]
        if (source, first - 1) in _blocks:
            for number in range(last + 1, min(last + AHEAD, (source.bytes - 1) // BLOCK) + 1):
                _due(source, number)
        while len(_blocks) > KEPT:
            _blocks.popitem(last=False)
    state.result()
    content = b"".join(block.result() for block in blocks)
    return content[start - first * BLOCK :][:length]


def opened(source: Object) -> BinaryIO:
    """Open an object for reading, as if it were a file."""
    return cast(BinaryIO, _Reader(source))


def copy(source: Object, file: Path) -> None:
    """Copy an object to a file.

    Raises:
        UserError: it cannot be read, or has changed, be it meanwhile.
    """
    with opened(source) as content, file.open("wb") as there:
        shutil.copyfileobj(content, there, BLOCK)
    _fetch(source, None)  # so that no blocks of another version are among them


def text(source: Object) -> str:
    """Read all of an object as text."""
    return read(source, 0, source.bytes).decode("utf-8")


def write(file: Path, url: str) -> None:
    """Make an object of a file; it appears whole or not at all, as stores have it.

    Raises:
        UserError: the store does not answer, or takes it not from these credentials.
    """
    try:
        _store(url).put_file(str(file), url)
    except Exception as error:
        said = shortened(error).rstrip(".")
        raise UserError(
            f"expected to write {url}, found: {said}; check the URL, and what the environment says of the store: "
            f"whether its credentials may write there, and its endpoint"
        ) from None


def _unread(url: str, error: Exception) -> UserError:
    """What to say of a URL that cannot be read."""
    said = shortened(error).rstrip(".")
    return UserError(
        f"expected to read {url}, found: {'nothing there' if said in url else said}; check the URL, and what the "
        f"environment says of the store: its credentials, and its endpoint"
    )


class _Reader(io.RawIOBase):
    """An object as a file that is open for reading."""

    def __init__(self, source: Object) -> None:
        self._source, self._at = source, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place, see ``io.IOBase``."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._source.bytes}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from there on, as far as the object goes."""
        view = memoryview(buffer)
        found = read(self._source, self._at, len(view))
        view[: len(found)] = found
        self._at += len(found)
        return len(found)


_blocks: OrderedDict[tuple[Object, int | None], Future[bytes]] = OrderedDict()
_lock = threading.Lock()
_pool = ThreadPoolExecutor(REQUESTS, "objects")


def _due(source: Object, number: int | None) -> Future[bytes]:
    """Return a block that is there, or comes; None stands for the check that the object is still the same."""
    key = (source, number)
    block = _blocks.get(key)
    if block is None or (block.done() and block.exception()):
        block = _blocks[key] = _pool.submit(_fetch, source, number)
    _blocks.move_to_end(key)
    return block


def _fetch(source: Object, number: int | None) -> bytes:
    store = _store(source.url)
    start = BLOCK * (number or 0)
    end = min(start + BLOCK, source.bytes)
    try:
        if number is None:
            now, found = _object(source.url, store.info(source.url)), b""
        else:
            now, found = source, store.cat_file(source.url, start=start, end=end)
    except FileNotFoundError as error:
        raise ChangedError(str(_unread(source.url, error))) from None
    except Exception as error:
        raise _unread(source.url, error) from None
    if now != source:
        raise ChangedError(
            f"{source.url}: expected it as get_data has found it ({source}), found that it has changed ({now}); bring "
            f"the data anew with 'python -m stages.get_data folder URL', or put the former object back"
        )
    if number is not None and len(found) != end - start:
        raise UserError(
            f"expected {end - start:,} bytes of {source.url}, from byte {start:,} on, found {len(found):,}; it takes a "
            f"server that answers range requests"
        )
    return found


def _store(url: str) -> Any:
    import fsspec

    protocol = url.partition("://")[0]
    try:
        return fsspec.filesystem(protocol, use_listings_cache=False, **SETTINGS.get(protocol, {}))
    except ImportError as error:
        hint = shortened(error).lower()
        if protocol == "s3":
            hint = "requirements.lock has s3fs: 'python -m pip install --no-deps --require-hashes -r requirements.lock'"
        raise UserError(f"{url}: expected what reads {protocol}://, found it not installed; {hint}") from None
    except ValueError:
        raise UserError(f"{url}: expected a store that fsspec knows, found {protocol}://; correct it") from None


def _object(url: str, info: Mapping[str, Any]) -> Object:
    version = next((str(info[name]) for name in VERSIONS if info.get(name)), "")
    return Object(url, int(info.get("size") or 0), version.strip('"'))
