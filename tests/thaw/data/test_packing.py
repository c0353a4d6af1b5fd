"""Packing into shards: the same bytes for the same images, and few of them other ones when images are added."""

import shutil
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from tests.helpers import pictures, tars
from thaw.config.schema import Dataset
from thaw.data import files, indexing, packing, sources
from thaw.data.corrections import Correction, of
from thaw.data.corrections import write as write_corrections
from thaw.data.layouts import Options
from thaw.errors import UserError

DATASET = Dataset(val=0.2, test=0.2, min_images=1, max_megapixels=1.0)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let shards be small, so that there are several."""
    monkeypatch.setattr(packing, "MEAN", 10)
    monkeypatch.setattr(packing, "IMAGES", 20)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return pictures.fill(tmp_path / "folder", {"a": 30, "b": 30})


def named(paths: list[str]) -> list[str]:
    return [path.rpartition(".tar/")[2] for path in paths]


def test_images_are_packed_and_understood_as_before(tmp_path: Path, folder: Path) -> None:
    (folder / "a" / "empty.png").touch()
    (folder / "README").touch()
    layout = sources.write_images(folder, tmp_path / "packed", Options(), packed=True)
    shards = sorted(path.name for path in (tmp_path / "packed").iterdir())
    assert shards == [f"shard-{number:06}.tar" for number in range(len(shards))]
    assert layout.notes[-1] == f"packed into {len(shards)} shards"
    sources.write_images(folder, tmp_path / "copied", Options())
    one, other = (indexing.build(tmp_path / name, DATASET, 0) for name in ("copied", "packed"))
    assert [(*named([r.path]), r.label, r.split, r.sha256) for r in other.records] == [
        (r.path, r.label, r.split, r.sha256) for r in one.records
    ]
    assert named([r.path for r in other.refused]) == [r.path for r in one.refused] == ["a/empty.png"]


def test_the_same_images_make_the_same_bytes(tmp_path: Path, folder: Path) -> None:
    sources.write_images(folder, tmp_path / "one", Options(), packed=True)
    again = shutil.copytree(folder, tmp_path / "again", copy_function=shutil.copyfile)
    (again / "a" / "000.png").chmod(0o600)
    sources.write_images(again, tmp_path / "other", Options(), packed=True)
    assert tars.of(tmp_path / "one") == tars.of(tmp_path / "other")


def test_a_new_image_changes_few_shards(tmp_path: Path, folder: Path) -> None:
    pictures.fill(folder, {"c": 60, "d": 60}, start=200)
    sources.write_images(folder, tmp_path / "one", Options(), packed=True)
    pictures.save(folder / "b" / "new.png", 999)
    sources.write_images(folder, tmp_path / "other", Options(), packed=True)
    before, after = ({*tars.of(tmp_path / name).values()} for name in ("one", "other"))
    assert len(before) > 12
    assert len(after - before) <= 2


def test_a_shard_is_full_by_images_and_by_bytes(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "MEAN", 10**9)
    sources.write_images(folder, tmp_path / "one", Options(), packed=True)
    sizes = [len(tarfile.open(file).getmembers()) for file in sorted((tmp_path / "one").iterdir())]  # noqa: SIM115
    assert sizes == [20, 20, 20]
    monkeypatch.setattr(packing, "BYTES", 1000)
    sources.write_images(folder, tmp_path / "other", Options(), packed=True)
    for file in (tmp_path / "other").iterdir():
        with tarfile.open(file) as tar:
            members = tar.getmembers()
            assert sum(member.size for member in members) <= 1000
            assert {(one.mtime, one.mode, one.uid, one.gid, one.uname) for one in members} == {(0, 0o644, 0, 0, "")}


def test_many_images_are_packed_unless_it_is_said_otherwise(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources.write_images(folder, tmp_path / "few", Options())
    assert (tmp_path / "few" / "a").is_dir()
    monkeypatch.setattr(packing, "ABOVE", 59)
    said = sources.write_images(folder, tmp_path / "many", Options()).notes[-1]
    assert said.endswith("shards, as there are more than 59 images (--no-shards leaves them files)")
    assert not (tmp_path / "many" / "a").exists()
    sources.write_images(folder, tmp_path / "told", Options(), packed=False)
    assert (tmp_path / "told" / "a").is_dir()


def test_what_it_takes_a_list_to_understand_has_one_beside_the_shards(tmp_path: Path, folder: Path) -> None:
    rows = [f"{label}/{number:03}.png,{'xy'[number % 2]}" for label in "ab" for number in range(25)]
    (folder / "labels.csv").write_text("\n".join(["file,label", *rows]), encoding="utf-8")
    sources.write_images(folder, tmp_path / "packed", Options(), packed=True)
    found = indexing.scan(tmp_path / "packed")
    assert Counter(entry.label for entry in found.entries) == {"x": 26, "y": 24}
    assert len(files.listing(tmp_path / "packed").paths) == 51, "nothing but the images in the list, and the list"


def test_corrections_follow_the_images(tmp_path: Path, folder: Path) -> None:
    write_corrections(folder / "corrections.csv", [Correction("a/003.png", "same", "b/003.png")])
    sources.write_images(folder, tmp_path / "packed", Options(), packed=True)
    (one,) = of(tmp_path / "packed")
    assert named([*one.paths]) == ["a/003.png", "b/003.png"]
    assert indexing.build(tmp_path / "packed", DATASET, 0).corrections["unmatched"] == 0


@pytest.mark.parametrize("link", [False, True])
def test_shards_are_taken_as_they_are(tmp_path: Path, folder: Path, link: bool) -> None:
    source = tars.shards(folder, tmp_path / "source" / "photos")
    (source / "notes.txt").touch()
    layout = sources.write_images(tmp_path / "source", tmp_path / "target", Options(), link=link)
    shards = sorted(file.name for file in source.glob("*.tar"))
    assert sorted(file.name for file in (tmp_path / "target").iterdir()) == shards
    for name in shards:
        placed = tmp_path / "target" / name
        assert placed.is_symlink() == link
        assert placed.read_bytes() == (source / name).read_bytes()
    assert [entry.label for entry in indexing.scan(tmp_path / "target").entries] == [
        one.label for one in layout.entries
    ]


def test_shards_of_which_a_person_says_more_have_a_list_beside_them(tmp_path: Path, folder: Path) -> None:
    source = tars.shards(folder, tmp_path / "source")
    sources.write_images(source, tmp_path / "target", Options(label_from=r"(\d)\.png"))
    assert {path.name for path in (tmp_path / "target").iterdir()} == {
        "index.csv",
        "shard-000000.tar",
        "shard-000001.tar",
    }
    assert {entry.label for entry in indexing.scan(tmp_path / "target").entries} == {*"0123456789"}


def test_files_are_not_linked_to_and_packed(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UserError, match="--link: expected files to stay as they are, found --shards"):
        sources.write_images(folder, tmp_path / "target", Options(), link=True, packed=True)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def refuse(self: Path, *arguments: object, **more: object) -> object:
        if self.name == "003.png":
            raise OSError(5, "Input/output error", str(self))
        return opened(self, *arguments, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"expected to copy .*003\.png, found: Input/output error; mend or remove it"):
        sources.write_images(folder, tmp_path / "target", Options(), packed=True)
