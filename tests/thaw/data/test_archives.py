"""Archives: every kind is unpacked, and nothing gets out of its folder."""

import io
import stat
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from tests.helpers import pictures
from thaw.data import archives, indexing, sources
from thaw.data.layouts import Options
from thaw.errors import UserError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return pictures.fill(tmp_path / "source" / "photos", {"a": 3, "b": 3})


def pack(file: Path, folder: Path) -> Path:
    """Pack a folder by what the file's name says."""
    if file.suffix == ".zip":
        with zipfile.ZipFile(file, "w") as zipped:
            for path in sorted(folder.rglob("*")):
                zipped.write(path, path.relative_to(folder.parent))
    elif file.name.endswith("zst"):
        import pyarrow as pa

        plain = io.BytesIO()
        with tarfile.open(fileobj=plain, mode="w") as tar:
            tar.add(folder, folder.name)
        with pa.output_stream(str(file), compression="zstd") as out:
            out.write(plain.getvalue())
    else:
        kind = {"gz": "gz", "tgz": "gz", "bz2": "bz2", "xz": "xz"}.get(file.name.rpartition(".")[2], "")
        with tarfile.open(file, f"w:{kind}") as tar:  # type: ignore[call-overload]
            tar.add(folder, folder.name)
    return file


@pytest.mark.parametrize("name", ["a.zip", "A.ZIP", "a.tar", "a.tar.gz", "a.tgz", "a.tar.bz2", "a.tar.xz", "a.tar.zst"])
def test_every_kind(tmp_path: Path, photos: Path, name: str) -> None:
    target = tmp_path / "target"
    packed = pack(tmp_path / name.lower(), photos)
    sources.write_images(packed.rename(tmp_path / name), target, Options())
    assert Counter(entry.label for entry in indexing.scan(target).entries) == {"a": 3, "b": 3}
    assert {path.name for path in tmp_path.iterdir()} == {"source", "target", name}


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_nothing_is_written_outside(tmp_path: Path, photos: Path, kind: str) -> None:
    file = pack(tmp_path / "in" / f"a.{kind}" if (tmp_path / "in").mkdir() is None else tmp_path, photos)
    names = ["../evil.png", "/evil.png", "photos/../../evil.png", "C:/evil.png"]
    if kind == "tar":
        with tarfile.open(file, "a") as tar:
            for name in names:
                tar.addfile(tarfile.TarInfo(name), io.BytesIO())
            for type_ in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
                member = tarfile.TarInfo(f"photos/a/{type_!r}.png")
                member.type, member.linkname = type_, "/etc/passwd"
                tar.addfile(member)
    else:
        with zipfile.ZipFile(file, "a") as zipped:
            for name in names:
                zipped.writestr(name, b"x")
            link = zipfile.ZipInfo("photos/a/link.png")
            link.external_attr = (stat.S_IFLNK | 0o777) << 16
            zipped.writestr(link, "/etc/passwd")
    found = sources.write_images(file, tmp_path / "in" / "target", Options())
    assert len(found.entries) == 6
    left_out = {"tar": 8, "zip": 5}[kind]
    assert f"left out of the archive: {left_out} links, devices or files that would lie outside" in found.notes
    assert not [*tmp_path.rglob("evil*")]
    assert {path.name for path in (tmp_path / "in" / "target").rglob("*.png")} == {"000.png", "001.png", "002.png"}


def test_a_bomb_does_not_go_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "ALLOWED", 10**6)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("a/0.png", bytes(5 * 10**6))
    with pytest.raises(UserError, match="found one that grows to more than 200 times its size; do not trust it"):
        sources.write_images(tmp_path / "a.zip", tmp_path / "target", Options())
    assert {path.name for path in tmp_path.iterdir()} == {"a.zip"}


@pytest.mark.parametrize("name", ["a.zip", "a.tgz", "a.tar.zst"])
def test_a_broken_archive_is_one_sentence(tmp_path: Path, photos: Path, name: str) -> None:
    file = pack(tmp_path / name, photos)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match="expected a complete archive at .*, found: .*; get it again"):
        sources.write_images(file, tmp_path / "target", Options())
    file.write_text("nothing", encoding="utf-8")
    with pytest.raises(UserError, match="expected a complete archive at .*, found: "):
        sources.write_images(file, tmp_path / "target", Options())
