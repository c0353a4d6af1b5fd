"""Bring a data set into data/ and let DVC track it (``python -m stages.get_data digits|folder|csv|flowers``).

- ``digits``: scikit-learn's 1,797 handwritten digits, the sample of ``make repro``;
- ``folder PATH``: your own images, in class folders or in train, val and test folders with class folders inside;
- ``csv FILE``: your own images, listed in a file with the columns path,label and optionally split,group;
- ``flowers``: TensorFlow's flower_photos, downloaded or, with ``--from FILE``, from an archive at hand.

Writes data/ and data.dvc, and in params.yaml what goes with the data. These are built beside data/ and renamed, so
data/ is complete or not there.
"""

import argparse
import csv
import hashlib
import http.client
import json
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import urllib.request
import zlib
from collections.abc import Callable, Sequence
from dataclasses import astuple, fields
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from tqdm import tqdm

from thaw.artifacts import PROJECT, atomic, cache, rename, write_text
from thaw.config import fail
from thaw.editing import edited
from thaw.errors import UserError
from thaw.indexing import INDEX, Entry, read_index, require_coherence, scan, visible

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


def main(arguments: Sequence[str] | None = None, root: Path = PROJECT) -> None:
    """Be the command line."""
    parser = argparse.ArgumentParser(prog="python -m stages.get_data", description="Bring a data set into data/.")
    commands = parser.add_subparsers(dest="source", required=True)
    commands.add_parser("digits", help="scikit-learn's handwritten digits, the sample")
    from_folder = commands.add_parser(
        "folder", help="class folders, or train/val/test folders with class folders inside"
    )
    from_folder.add_argument("path", type=Path)
    from_folder.add_argument("--link", action="store_true", help="let DVC read your files in place: one copy fewer")
    from_csv = commands.add_parser("csv", help="a CSV file with the columns path,label[,split][,group]")
    from_csv.add_argument("file", type=Path)
    from_flowers = commands.add_parser("flowers", help="TensorFlow's flower_photos: 3,670 photos in five classes")
    from_flowers.add_argument("--from", dest="archive", type=Path, help="a tar archive at hand instead of the download")
    for command in commands.choices.values():
        command.add_argument("--force", action="store_true", help="replace also what could not be brought back")
    given = parser.parse_args(arguments)
    try:
        match given.source:
            case "digits":
                bring(root, write_digits, force=given.force, quick=True)
            case "folder":
                if given.link:
                    _require_linkable(root)
                bring(root, lambda target: write_folder(given.path, target, link=given.link), force=given.force)
            case "csv":
                bring(root, lambda target: write_csv(given.file, target), force=given.force)
            case "flowers":
                bring(
                    root, lambda target: write_archive(given.archive or _download_flowers(), target), force=given.force
                )
        if changed := choose(root, given.source if given.source in GOES_WITH else "folder"):
            print(changed)
    except UserError as error:
        fail(error)
    print("Next: make repro")


def bring(root: Path, write: Callable[[Path], None], *, force: bool, quick: bool = False) -> None:
    """Make the data that ``write`` puts into a new folder the project's data/, and track them with DVC.

    Args:
        root: the project's root, where DVC has been initialised.
        write: is given a folder that does not exist yet.
        force: replace also what DVC and Git could not bring back: it is renamed to data.backup.
        quick: ``write`` takes no time, so it may run only to find that data/ holds the same already.

    Raises:
        UserError: the project is not under DVC, or other data would be lost, or ``write`` cannot do it.
    """
    if not (root / ".dvc").is_dir():
        raise UserError(f"expected a DVC project in {root}, found no .dvc folder; run 'dvc init' there first")
    data, partial = root / "data", root / ".data.partial"
    occupied = data.is_symlink() or (data.exists() and (not data.is_dir() or any(data.iterdir())))
    present, tracked = fingerprint(data) if occupied else None, tracked_fingerprint(root)
    way_back = "" if present is None and tracked is None else _way_back(root, data, present, tracked)
    if present is None and way_back and quick and not force:
        way_back = None  # nobody need have asked for the sample: 'make repro' brings it where there are no data
    if occupied and way_back is None and not force and not quick:
        raise _lost(data, occupied)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        write(partial)
        new = fingerprint(partial)
        if present == new:
            print(f"{data} holds these data already")
            if tracked == new:
                return
        elif way_back is None and not force and (occupied or tracked != new):
            raise _lost(data, occupied)
        else:
            if occupied:
                _clear(root, data, way_back)
            elif data.exists():
                data.rmdir()
            rename(partial, data)
            if way_back and tracked != new:
                print(way_back)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    _dvc_add(root)
    print(f"{len(visible(data)):,} files in {data}, tracked by data.dvc")


def _lost(data: Path, occupied: bool) -> UserError:
    if occupied:
        return UserError(
            f"expected no data in {data}, or such as Git and DVC can bring back, found others; run 'dvc add data' and "
            "commit data.dvc to keep them there, or add --force, which moves them to data.backup"
        )
    return UserError(
        "expected no data.dvc, or such as can be brought back, found one that tracks other data, which are not in "
        f"{data}; 'dvc pull' or 'dvc checkout data.dvc' brings them, --force gives them up"
    )


def _way_back(root: Path, data: Path, present: str | None, tracked: str | None) -> str | None:
    """Say how the data that are there now can be brought back; None if they cannot."""
    committed = _run(root, ["git", "show", "HEAD:./data.dvc"])
    file = root / "data.dvc"
    known = file.exists() and committed.returncode == 0 and committed.stdout == file.read_text(encoding="utf-8")
    if not known or data.is_symlink() or present not in (None, tracked):
        return None
    if present is None:
        return "data.dvc was that of other data: 'git checkout data.dvc' goes back to it"
    return "the former data are in DVC's cache: 'git checkout data.dvc && dvc checkout data.dvc' brings them back"


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


def fingerprint(folder: Path) -> str:
    """Compute the hash by which data.dvc would know ``folder``: DVC's own, so that no DVC is needed to compare."""
    files = []
    for relative in sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()):
        with (folder / relative).open("rb") as file:
            files.append({"md5": hashlib.file_digest(file, "md5").hexdigest(), "relpath": relative})
    return hashlib.md5(json.dumps(files, sort_keys=True).encode()).hexdigest() + ".dir"


def tracked_fingerprint(root: Path) -> str | None:
    """Read the hash in data.dvc; none if there is no such file."""
    file = root / "data.dvc"
    if not file.exists():
        return None
    try:
        output = yaml.safe_load(file.read_text(encoding="utf-8"))["outs"][0]
        return str(output[output["hash"]])
    except (yaml.YAMLError, KeyError, IndexError, TypeError, UnicodeDecodeError):
        raise UserError(f"expected {file} as 'dvc add' writes it, found something else; restore or remove it") from None


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


def _download_flowers() -> Path:
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


def _require_linkable(root: Path) -> None:
    """Refuse ``--link`` where DVC would make the user's originals part of its cache.

    ``dvc add`` reads linked files in place and then puts files of its own into data/, as its ``cache.type`` says. Only
    with ``cache.type hardlink`` does the cache become another name of the original, which DVC then makes read-only.
    """
    types = _dvc(root, "config", "cache.type").stdout
    if types.lstrip("[' ").startswith("hardlink"):  # the first of several counts; a list is printed as Python writes it
        raise UserError(
            "expected a DVC cache of its own for --link, found cache.type hardlink, with which DVC would make your "
            "original files read-only; leave out --link"
        )


def _clear(root: Path, data: Path, way_back: str | None) -> None:
    """Make room for new data: delete the old if there is a way back to them, else rename them."""
    if way_back:
        _dvc_add(root)  # changes nothing, but completes DVC's cache if a file had been lost there
        shutil.rmtree(data)
        return
    number = 1
    while os.path.lexists(backup := root / f"data.backup{f'-{number}' if number > 1 else ''}"):
        number += 1
    data.rename(backup)
    print(f"the old data are in {backup} now")


def _dvc_add(root: Path) -> None:
    added = _dvc(root, "add", "--quiet", "data")
    if added.returncode:
        reason = " ".join(added.stderr.split()).removeprefix("ERROR: ")
        raise UserError(
            f"expected 'dvc add data' to track {root / 'data'}, found: {reason}; the data are complete: "
            "mend the cause, then run 'dvc add data'"
        )


def _dvc(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return _run(root, [sys.executable, "-m", "dvc", *arguments])


def _run(root: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, cwd=root, capture_output=True, text=True, encoding="utf-8", errors="replace", check=False
        )
    except FileNotFoundError:  # no Git on this machine
        return subprocess.CompletedProcess(command, 127, "", f"{command[0]}: not found")


if __name__ == "__main__":
    main()
