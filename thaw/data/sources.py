"""Data sets that ``get_data`` can bring: each is written into a new folder, as ``prepare`` understands it.

Also what is chosen along with them: an option of ``dataset``, and what goes with it in params.yaml.
"""

import csv
import hashlib
import http.client
import shutil
import struct
import tarfile
import urllib.request
import zlib
from dataclasses import astuple, fields
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from tqdm import tqdm

from thaw.artifacts import atomic, cache, write_text
from thaw.config.editing import edited
from thaw.data.layouts import INDEX, Entry, read_index, require_coherence, scan, visible
from thaw.errors import UserError

FLOWERS_URL = "https://storage.googleapis.com/download.tensorflow.org/example_images/flower_photos.tgz"
# As TensorFlow Datasets records it (tensorflow_datasets/datasets/tf_flowers/checksums.tsv); 228,813,984 bytes.
FLOWERS_SHA256 = "4c54ace7911aaffe13a365c34f650e71dd5bf1be0a58b464e5a7183e3e595d9c"

# What goes with an option of dataset: the digits are far from photos, and are to run without a download.
PHOTOS = {"backbone": "mobilenet_v2", "finetune": "last_3_blocks"}
GOES_WITH = {
    "digits": {"dataset": "digits", "backbone": "mobilenet_v2_bundled", "finetune": "last_6_blocks"},
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


def write_folder(source: Path, target: Path, *, link: bool = False) -> None:
    """Copy, or link to, all files of a folder that ``prepare`` would understand."""
    source = source.expanduser().absolute()
    scan(source)
    _place([(source / path, target / path) for path in visible(source)], link=link)


def write_csv(file: Path, target: Path) -> None:
    """Copy the images that a CSV file lists, and write the list as ``index.csv`` beside them."""
    file = file.expanduser().absolute()
    if not file.is_file():
        raise UserError(f"expected a CSV file with the columns path,label at {file}, found none; correct the path")
    entries = read_index(file)
    require_coherence(file, entries)
    _place([(file.parent / entry.path, target / entry.path) for entry in entries])
    with (target / INDEX).open("w", newline="", encoding="utf-8") as text:
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(field.name for field in fields(Entry))
        rows.writerows(astuple(entry) for entry in entries)


def write_archive(archive: Path, target: Path) -> None:
    """Unpack a tar archive of class folders; a single folder around them is left out, and so is its LICENSE.txt."""
    archive = archive.expanduser().absolute()
    if not archive.is_file():
        raise UserError(f"expected an archive at {archive}, found no such file; correct the path")
    unpacked = target.with_name(f"{target.name}.unpacked")
    shutil.rmtree(unpacked, ignore_errors=True)
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(unpacked, filter="data")
        inside = [path for path in unpacked.iterdir() if not path.name.startswith(".")]
        top = inside[0] if len(inside) == 1 and inside[0].is_dir() else unpacked
        (top / "LICENSE.txt").unlink(missing_ok=True)
        try:
            scan(top)
        except UserError as error:
            raise UserError(str(error).replace(str(top), str(archive))) from None
        top.rename(target)
    except tarfile.FilterError as error:
        raise UserError(f"expected {archive} to stay in its own folder, found: {error}; do not trust it") from None
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise UserError(f"expected a complete tar archive at {archive}, found: {error}; get it again") from None
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


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


def _place(files: list[tuple[Path, Path]], *, link: bool = False) -> None:
    """Put each source file at its target: a copy of its content, or a symbolic link."""
    for source, target in tqdm(files, "copy", disable=None, unit="file"):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            if link:
                target.symlink_to(source)
            else:
                shutil.copyfile(source, target)
        except OSError as error:
            if link:  # Windows lets only some users make links
                raise UserError(f"expected to link to {source}, found: {error.strerror}; leave out --link") from None
            raise UserError(f"expected to copy {source}, found: {error.strerror}; mend or remove it") from None
