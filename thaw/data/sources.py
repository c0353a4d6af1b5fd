"""Data sets that ``get_data`` can bring: each is written into a new folder, as ``prepare`` understands it.

Also what is chosen along with them: an option of ``dataset``, and what goes with it in params.yaml.
"""

import hashlib
import http.client
import shutil
import struct
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from tqdm import tqdm

from thaw.artifacts import atomic, cache, write_text
from thaw.config.editing import edited
from thaw.data import archives, corrections, mirrors, objects, packing, parquet, shards, sheets, tables
from thaw.data.corrections import Correction
from thaw.data.files import Listing, listing
from thaw.data.indexing import scan, understand
from thaw.data.layouts import CORRECTIONS, Layout, Options, coherent, is_picture
from thaw.errors import UserError

FLOWERS_URL = "https://storage.googleapis.com/download.tensorflow.org/example_images/flower_photos.tgz"
# As TensorFlow Datasets records it (tensorflow_datasets/datasets/tf_flowers/checksums.tsv); 228,813,984 bytes.
FLOWERS_SHA256 = "4c54ace7911aaffe13a365c34f650e71dd5bf1be0a58b464e5a7183e3e595d9c"

# What goes with an option of dataset: the digits are to run without a download.
PHOTOS = {"backbone": "mobilenet_v2"}
GOES_WITH = {
    "digits": {"dataset": "digits", "backbone": "mobilenet_v2_bundled"},
    "flowers": {"dataset": "flowers", **PHOTOS},
    "folder": {"dataset": "folder", **PHOTOS},
}


def choose(root: Path, option: str) -> str:
    """Let params.yaml choose what goes with the data: what still goes with the former ones is changed, in place.

    Args:
        root: the project's root.
        option: of ``dataset``.

    Returns:
        What was changed; nothing if nothing was.

    Raises:
        UserError: params.yaml cannot be read.
    """
    file = root / "params.yaml"
    try:
        text = file.read_text(encoding="utf-8")
        chosen = dict(yaml.safe_load(text))
    except (OSError, TypeError, ValueError, yaml.YAMLError):
        raise UserError(
            f"the data are complete, but {file} was expected to choose what goes with them, and cannot be read; "
            f"restore it and set 'dataset: {option}'"
        ) from None
    former, wanted = GOES_WITH.get(str(chosen.get("dataset")), {}), GOES_WITH[option]
    changes = {key: wanted[key] for key, value in former.items() if chosen.get(key) == value != wanted[key]}
    if not changes:
        return ""
    write_text(file, edited(text, chosen, chosen | changes))
    said = ", ".join(f"{key} {chosen[key]} → {value}" for key, value in changes.items())
    downloads = "backbone" in changes and changes["backbone"] == PHOTOS["backbone"]
    hint = "\nKeras downloads its ImageNet weights once, 14 MB; docs/data.md says what to do without a network"
    return f"params.yaml: {said}; 'git checkout params.yaml' takes that back{hint if downloads else ''}"


def write_digits(target: Path) -> None:
    """Write scikit-learn's digits as ``<digit>/<number>.png``, 8 × 8 pixels, greyscale."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pictures = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    for number, (picture, label) in enumerate(zip(pictures, digits.target, strict=True)):
        file = target / str(label) / f"{number:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode_png(picture))


def encode_png(picture: NDArray[np.uint8]) -> bytes:
    """Encode a small greyscale picture (height × width) as PNG, the same bytes on every machine.

    data.dvc is committed, so the sample has to be byte-identical wherever it is made; but builds of zlib differ in what
    they compress to. So the pixels are stored: zlib's frame around a single uncompressed block of at most 65,535 bytes.
    """
    height, width = picture.shape
    lines = b"".join(b"\0" + line.tobytes() for line in picture)  # \0: a line without a filter
    stored = b"\x78\x01" + b"\x01" + struct.pack("<HH", len(lines), len(lines) ^ 0xFFFF) + lines
    stored += struct.pack(">I", zlib.adler32(lines))

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)  # 8 bits, greyscale
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", stored) + chunk(b"IEND", b"")


def write_images(
    source: Path | str,
    target: Path,
    options: Options,
    picture: Path | None = None,
    *,
    link: bool = False,
    packed: bool | None = None,
) -> Layout:
    """Copy, or link to, the images of a folder, an archive or a table, and say what was understood.

    Where it takes a table or ``options`` to understand them, ``index.csv`` says it to ``prepare``. Shards stay whole,
    and those in a store stay there.

    Args:
        source: the folder, archive or table, or the URL of shards in a store.
        target: a folder that does not exist yet.
        options: what a person says.
        picture: the file of a contact sheet, a row for each class, if one is wanted.
        link: make links instead of copies.
        packed: whether images that lie in no shards are packed into some; None does so with more than
            ``packing.ABOVE``.

    Raises:
        UserError: nothing is there, or it cannot be understood.
    """
    source = _absolute(source)
    if link and not (isinstance(source, Path) and source.is_dir()):
        raise UserError(f"--link: expected a folder to link to, found {source}; leave out --link")
    with _opened(source, options, target) as (folder, layout):
        note = _place(folder, target, layout, link=link, packed=packed)
        found = _with_corrections(folder, layout)
        found = replace(found, notes=[*found.notes, *note])
        return sheets.draw(folder, found, picture) if picture else found


def look(source: Path | str, options: Options, picture: Path) -> Layout:
    """Understand the images of a folder, an archive, a table or a store; copy nothing.

    Raises:
        UserError: see ``write_images``.
    """
    with _opened(_absolute(source), options, cache() / "look") as (folder, layout):
        return sheets.draw(folder, _with_corrections(folder, layout), picture)


def _absolute(source: Path | str) -> Path | str:
    """Tell URLs from paths, and make paths absolute."""
    return source if isinstance(source, str) and objects.is_url(source) else Path(source).expanduser().absolute()


@contextmanager
def _opened(source: Path | str, options: Options, beside: Path) -> Iterator[tuple[Path, Layout]]:
    """Yield the folder of the images, which may be there only as long as the block, and what was understood."""
    if isinstance(source, str):
        with archives.scratch(beside) as folder:
            note = mirrors.mirror(source, folder)
            layout = _scan(folder, source, options)
            yield folder, replace(layout, notes=[note, *layout.notes])
        return
    files = listing(source) if source.is_dir() else Listing()
    if packed := [] if any(map(is_picture, files.paths)) else parquet.with_images(source, files.paths):
        with archives.scratch(beside) as folder:
            yield folder, coherent(source, parquet.unpack(packed, folder))
    elif source.is_dir():
        yield source, understand(source, files, options)
    elif source.is_file() and archives.is_archive(source):
        with archives.scratch(beside) as folder:
            left_out = archives.unpack(source, folder)
            layout = _scan(folder, source, options)
            note = f"left out of the archive: {left_out} links, devices or files that would lie outside"
            yield folder, replace(layout, notes=[*([note] if left_out else []), *layout.notes])
    elif source.is_file() and source.suffix.lower() in tables.SUFFIXES:
        folder = (options.root or source.parent).expanduser().absolute()
        found = tables.understand(folder, source, listing(folder).paths, options)
        yield folder, coherent(source, found)
    else:
        what = f"the file {source}" if source.exists() else f"nothing at {source}"
        raise UserError(
            f"expected a folder of images, an archive (zip, tar) or a table (csv, tsv, jsonl, parquet), found {what}; "
            "name one of these"
        )


def _scan(folder: Path, source: Path | str, options: Options) -> Layout:
    """Understand a folder that is there only for now: what is said of it, is said of its source."""
    try:
        return scan(folder, options)
    except UserError as error:
        raise UserError(str(error).replace(str(folder), str(source))) from None


def _place(folder: Path, target: Path, layout: Layout, *, link: bool, packed: bool | None) -> list[str]:
    """Put images into a new folder: what the layout speaks of, or what it lists, with the list.

    Returns:
        What is to be said of it.
    """
    paths = [entry.path for entry in layout.entries]
    if not layout.listed:  # what cannot be used is for prepare to say, but no files beside the images
        paths += [one.path for one in layout.refused if is_picture(one.path) and shards.is_file(folder / one.path)]
    is_inside = layout.top and not layout.listed and all(path.startswith(f"{layout.top}/") for path in paths)
    inside = f"{layout.top}/" if is_inside else ""
    beside = [] if layout.listed else layout.tables
    tars, loose = dict[str, None](), list[str]()  # which stay whole; and images in none of them
    for path in paths:
        if held := shards.divided(folder / path):
            tars[held[0].relative_to(folder).as_posix()] = None
        else:
            loose.append(path)
    if packed and link:
        raise UserError("--link: expected files to stay as they are, found --shards, which packs them; leave out one")
    placed, notes = {path: path.removeprefix(inside) for path in paths}, list[str]()
    if not tars and not link and (len(loose) > packing.ABOVE if packed is None else packed):
        try:
            put = packing.pack([(folder / path, placed[path]) for path in loose], target)
        except OSError as error:
            raise _uncopied(error.filename, error) from None
        placed = {path: put[name] for path, name in placed.items()}
        why = "" if packed else f", as there are more than {packing.ABOVE:,} images (--no-shards leaves them files)"
        count = len({one.partition("/")[0] for one in put.values()})
        notes.append(f"packed into {count:,} shard{'s' * (count != 1)}{why}")
        loose = []
    for path in tqdm([*tars, *loose, *beside], "copy", disable=None, unit="file"):
        source, copy = folder / path, target / path.removeprefix(inside)
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            if link:
                copy.symlink_to(source)
            else:
                shutil.copyfile(source, copy)
        except OSError as error:
            if link:  # Windows lets only some users make links
                raise UserError(f"expected to link to {source}, found: {error.strerror}; leave out --link") from None
            raise _uncopied(source, error) from None
    if layout.listed:
        tables.write(target / tables.INDEX, [replace(entry, path=placed[entry.path]) for entry in layout.entries])
    if given := _corrections(folder, layout):
        moved = [one.about([placed.get(path, path.removeprefix(inside)) for path in one.paths]) for one in given]
        corrections.write(target / CORRECTIONS, moved)
    return notes


def _uncopied(source: Path | str, error: OSError) -> UserError:
    return UserError(f"expected to copy {source}, found: {error.strerror}; mend or remove it")


def _corrections(folder: Path, layout: Layout) -> list[Correction]:
    """Read the corrections that lie with a data set: in its folder, or in the one in it that all images are in."""
    for base in ("", f"{layout.top}/" if layout.top else ""):
        if given := corrections.of(folder / base):
            return [one.moved("", base) for one in given]
    return []


def _with_corrections(folder: Path, layout: Layout) -> Layout:
    """Say that the corrections of a data set are taken along, if it has some."""
    given = _corrections(folder, layout)
    note = f"{CORRECTIONS} is taken along: {corrections.counted(given)}"
    return replace(layout, notes=[*layout.notes, note]) if given else layout


def download_flowers() -> Path:
    """Download flower_photos once, into the cache; a file that is not what TensorFlow published is not kept."""
    file = cache() / "downloads" / "flower_photos.tgz"
    if file.exists():
        return file
    digest = hashlib.sha256()
    try:
        with atomic(file) as partial, urllib.request.urlopen(FLOWERS_URL, timeout=60) as response:
            size = int(response.headers.get("Content-Length", 0)) or None
            with (
                partial.open("wb") as out,
                tqdm(total=size, desc=file.name, unit="B", unit_scale=True, disable=None) as bar,
            ):
                while block := response.read(1 << 20):
                    out.write(block)
                    digest.update(block)
                    bar.update(len(block))
            if digest.hexdigest() != FLOWERS_SHA256:
                raise UserError(
                    f"expected the sha256 {FLOWERS_SHA256} of {FLOWERS_URL}, found {digest.hexdigest()}; "
                    "try again, or get the archive elsewhere and pass it with --from FILE"
                )
    except (OSError, http.client.HTTPException) as error:
        raise UserError(
            f"expected to download {FLOWERS_URL}, found: {error}; try again, or get the archive elsewhere and pass it "
            "with --from FILE"
        ) from None
    return file
