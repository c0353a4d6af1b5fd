"""Images in tar shards: read where they lie, and understood as if they were files in folders."""

import gzip
import io
import json
import os
import shutil
import sys
import tarfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import options, pictures, tars
from thaw.audit.pictures import look
from thaw.config.schema import Augment, Backbone, Dataset
from thaw.data import corrections, files, images, indexing, shards, sources
from thaw.data.corrections import Correction
from thaw.data.layouts import Options
from thaw.data.manifest import Record
from thaw.errors import UserError
from thaw.networks import features, views

DATASET = Dataset(val=0.2, test=0.2, min_images=1, max_megapixels=1.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Class folders."""
    return pictures.fill(tmp_path / "folder", {"a": 12, "b": 12})


@pytest.fixture
def packed(tmp_path: Path, folder: Path) -> Path:
    """The same images in two shards."""
    return tars.shards(folder, tmp_path / "packed")


def bare(path: str) -> str:
    """The path of an image, without its shard."""
    return path.rpartition(".tar/")[2]


def told(records: list[Record]) -> list[tuple[str, str, str, str, int, int]]:
    """What a manifest says, wherever the images lie."""
    return sorted((bare(one.path), one.label, one.split, one.sha256, one.width, one.height) for one in records)


# Reading.


def test_a_member_is_what_the_file_was(folder: Path, packed: Path) -> None:
    inside = packed / "shard-000001.tar" / "a" / "001.png"
    file = folder / "a" / "001.png"
    with shards.opened(inside) as content:
        assert content.read() == file.read_bytes()
    assert images.measure(inside) == images.measure(file)
    assert images.about(inside) == images.about(file)
    assert images.camera(inside) == images.camera(file) == ""
    assert images.thumbnail(inside) == images.thumbnail(file)
    assert images.length(inside) == file.stat().st_size
    assert np.array_equal(images.load(inside, 32, "crop"), images.load(file, 32, "crop"))
    assert look(inside).size == look(file).size
    assert shards.is_file(inside)


def test_a_member_that_is_not_there_is_named(packed: Path) -> None:
    nowhere = packed / "shard-000001.tar" / "a" / "nowhere.png"
    assert not shards.is_file(nowhere)
    with pytest.raises(images.Unusable, match="unreadable: No such file or directory"):
        images.decode(nowhere)
    with pytest.raises(UserError, match=r"nowhere\.png: expected the image that prepare indexed, found unreadable"):
        images.load(nowhere, 32, "crop")
    with pytest.raises(FileNotFoundError):
        images.length(nowhere)


def test_a_folder_may_be_called_like_a_tar(tmp_path: Path) -> None:
    file = pictures.save(tmp_path / "a.tar" / "b.png")
    assert images.measure(file) == (8, 6)
    assert shards.divided(file) is None


def test_a_shard_that_changes_is_read_anew(tmp_path: Path) -> None:
    file = tars.save(tmp_path / "a.tar", {"1.txt": b"one"})
    assert shards.contents(file).names.tolist() == [b"1.txt"]
    tars.save(file, {"1.txt": b"one", "2.txt": bytes(20_000)})
    assert shards.contents(file).names.tolist() == [b"1.txt", b"2.txt"]


def test_threads_read_a_tar_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tars.save(tmp_path / "a.tar", {f"{n}.txt": bytes([n]) * n for n in range(50)})
    reads, read, together = [], shards._read, threading.Barrier(8)

    def counted(tar: Path, length: int) -> shards.Contents:
        reads.append(tar)
        return read(tar, length)

    def content(number: int) -> bytes:
        if number < 8:
            together.wait()
        with shards.opened(file / f"{number}.txt") as found:
            return found.read()

    monkeypatch.setattr(shards, "_read", counted)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(content, range(50))) == [bytes([n]) * n for n in range(50)]
    assert reads == [file]


NAMES = st.text(st.characters(exclude_characters="/\x7f", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=200)


@given(members=st.dictionaries(NAMES.filter(lambda name: name not in (".", "..")), st.binary(max_size=700), max_size=8))
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_whatever_the_names_every_member_is_found(
    tmp_path_factory: pytest.TempPathFactory, kind: int, members: dict[str, bytes]
) -> None:
    file = tmp_path_factory.mktemp("tar") / "a.tar"
    with tarfile.open(file, "w", format=kind) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(f"folder/{name}")
            member.size, member.mtime = len(content), 12.5  # type: ignore[assignment]  # as WebDataset writes them
            tar.addfile(member, io.BytesIO(content))
    held = shards.contents(file)
    assert [name.decode() for name in held.names.tolist()] == sorted(f"folder/{name}" for name in members)
    for name, content in members.items():
        assert next(shards.read(file, [f"folder/{name}"])) == content


def test_what_is_no_plain_file_is_refused_with_a_reason(tmp_path: Path) -> None:
    file = tars.save(tmp_path / "a.tar", {"./a/1.png": b"1", "../out.png": b"2", "/root.png": b"3", "a/._1.png": b"4"})
    with tarfile.open(file, "a") as tar:
        for name, kind in (("a/link.png", tarfile.SYMTYPE), ("a/pipe.png", tarfile.FIFOTYPE), ("a", tarfile.DIRTYPE)):
            member = tarfile.TarInfo(name)
            member.type = kind
            tar.addfile(member)
        tar.addfile(tarfile.TarInfo("line\n.png"))
    found = files.listing(tmp_path)
    assert found.paths == ["a.tar/a/1.png"]
    assert {one.path: one.reason for one in found.refused} == {
        "a.tar/../out.png": "a path that leads out of its shard",
        "a.tar//root.png": "a path that leads out of its shard",
        "a.tar/a/link.png": "neither a file nor a folder: a link in a shard",
        "a.tar/a/pipe.png": "neither a file nor a folder: a pipe in a shard",
        "a.tar/line\\n.png": "a name that is not printable UTF-8",
    }


@pytest.mark.skipif(sys.platform == "win32", reason="needs GNU tar")
def test_a_sparse_file_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "holes.png").open("wb") as file:
        file.truncate(10**6)
    assert os.system(f"tar -C {tmp_path} --sparse -cf {tmp_path}/a.tar holes.png") == 0
    (tmp_path / "holes.png").unlink()
    found = files.listing(tmp_path)
    assert [(one.path, one.kind) for one in found.refused] == [("a.tar/holes.png", "a sparse file in a shard")]


def test_of_members_with_one_name_the_last_counts(tmp_path: Path) -> None:
    file = tars.save(tmp_path / "a.tar", {"1.txt": b"old"})
    with tarfile.open(file, "a") as tar:
        member = tarfile.TarInfo("1.txt")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"new"))
    assert next(shards.read(file, ["1.txt"])) == b"new"


# Broken shards.


@pytest.mark.parametrize(
    ("damage", "kept", "reason"),
    [
        pytest.param(lambda content: content[: 5 * 1024 + 600], 5, "it ends within 'a/010.png'", id="in-a-file"),
        pytest.param(lambda content: content[: 5 * 1024], 5, "it does not end as tars do", id="between-files"),
        pytest.param(lambda content: content[: 5 * 1024 + 100], 5, "a damaged header at byte 5,120", id="in-a-header"),
        pytest.param(
            lambda content: content[: 5 * 1024] + b"x" * 512 + content[5 * 1024 + 512 :],
            5,
            "a damaged header at byte 5,120",
            id="overwritten",
        ),
        pytest.param(lambda _: b"no tar at all", 0, "", id="no-tar"),
        pytest.param(lambda _: b"", 0, "empty file", id="empty"),
    ],
)
def test_of_a_broken_shard_what_is_complete_is_used(
    tmp_path: Path, packed: Path, damage: object, kept: int, reason: str
) -> None:
    file = packed / "shard-000000.tar"
    file.write_bytes(damage(file.read_bytes()))  # type: ignore[operator]
    built = indexing.build(packed, DATASET, 0)
    assert len(built.records) == kept + 12
    (refused,) = built.refused
    assert refused.path == "shard-000000.tar"
    assert refused.reason.startswith(f"a broken shard: {reason}")
    assert refused.reason.endswith("get it again")


@given(places=st.dictionaries(st.integers(0, 4095), st.integers(0, 255), max_size=6), kind=st.booleans())
@settings(max_examples=150, deadline=None)
def test_whatever_is_wrong_with_a_shard_is_said(
    tmp_path_factory: pytest.TempPathFactory, places: dict[int, int], kind: bool
) -> None:
    place = tmp_path_factory.mktemp("tar")
    with tarfile.open(place / "a.tar", "w", format=tarfile.PAX_FORMAT if kind else tarfile.GNU_FORMAT) as tar:
        for name in ("a/1.png", f"b/{'long' * 40}.png"):
            tar.addfile(tarfile.TarInfo(name))
    content = bytearray((place / "a.tar").read_bytes())
    for at, value in places.items():
        content[at] = value
    (place / "a.tar").write_bytes(content)
    found = files.listing(place)
    for path in found.paths:
        with shards.opened(place / path) as file:
            assert len(file.read()) == shards.size(place / path)
    assert all("\n" not in one.reason for one in found.refused)


def test_compressed_shards_are_one_sentence(tmp_path: Path, packed: Path) -> None:
    for file in packed.iterdir():
        file.with_suffix(".tar.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    sentence = (
        r"expected images in .*packed, found shard-000000.tar.gz, shard-000001.tar.gz: a compressed tar: .*gunzip"
    )
    with pytest.raises(UserError, match=sentence):
        indexing.scan(packed)
    for file in [*packed.iterdir()]:
        file.rename(file.with_suffix(""))
    (packed / "labels.csv").write_text("path,label\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"found shard-000000.tar, shard-000001.tar: a compressed tar: .*with gzip"):
        indexing.scan(packed)


# Layouts.

WORDS = st.sampled_from(["train", "Training", "val", "test", "images", "a", "B", "b b", "fold_1"])
TREES = st.dictionaries(st.lists(WORDS, max_size=3).map("/".join), st.integers(1, 4), min_size=1, max_size=6)


@given(tree=TREES, count=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_any_tree_is_the_same_in_folders_and_in_shards(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[str, int], count: int
) -> None:
    place = tmp_path_factory.mktemp("tree")
    number = 0
    for path, each in tree.items():
        for _ in range(each):
            pictures.save(place / "folder" / path / f"{'xy'[number % 2]}.{number:03}.png", number)
            number += 1
    tars.shards(place / "folder", place / "packed", count)
    found = []
    for data in (place / "folder", place / "packed"):
        try:
            built = indexing.build(data, DATASET, 0)
        except UserError as error:
            found.append(str(error).replace(str(data), ""))
        else:
            refused = sorted((bare(one.path), one.kind) for one in built.refused)
            notes = [note for note in built.notes if not note.startswith("shards, which are read in place: ")]
            found.append((told(built.records), refused, built.classes, built.predefined, notes))
            assert [one.path for one in built.records] == sorted(one.path for one in built.records), "shard by shard"
    assert found[0] == found[1]
    shutil.rmtree(place)


def test_names_of_shards_say_the_split(tmp_path: Path, folder: Path) -> None:
    for number, split in enumerate(("train", "train", "val", "test")):
        content = dict(list(tars.of(folder).items())[number::4])
        tars.save(tmp_path / "data" / f"imagenet1k-{split}-{number:06}.tar", content)
    built = indexing.build(tmp_path / "data", DATASET, 0)
    assert built.predefined == ["train", "val", "test"]
    assert all(one.split in one.path for one in built.records)
    assert Counter(one.label for one in built.records) == {"a": 12, "b": 12}


def test_a_tar_for_each_class(tmp_path: Path, folder: Path) -> None:
    for name in ("a", "b"):
        tars.save(tmp_path / "data" / f"{name}.tar", tars.of(folder / name))
    built = indexing.build(tmp_path / "data", DATASET, 0)
    assert Counter(one.label for one in built.records) == {"a": 12, "b": 12}


def test_the_same_path_in_two_shards_is_said(packed: Path) -> None:
    shutil.copy(packed / "shard-000001.tar", packed / "shard-000002.tar")
    built = indexing.build(packed, DATASET, 0)
    assert len(built.records) == 24
    assert Counter(one.kind for one in built.refused) == {"in two shards": 12}


def test_a_tar_among_images_is_none_of_them(folder: Path, packed: Path) -> None:
    """As it always was, unless it is numbered as a shard: then somebody has added images to a packed set."""
    before = indexing.scan(folder)
    shutil.copy(packed / "shard-000000.tar", folder / "photos.tar")
    found = indexing.scan(folder)
    assert found.entries == before.entries
    assert [(one.path, one.kind) for one in found.refused] == [("photos.tar", "not an image")]
    pictures.save(folder / "a" / "new.png", 99)
    (folder / "photos.tar").rename(folder / "shard-000000.tar")
    pictures.fill(tars_only := folder.parent / "more", {"c": 3}, start=200)
    tars.shards(tars_only, folder, 1, "more")
    found = indexing.scan(folder)
    assert Counter(entry.label for entry in found.entries) == {"a": 13, "b": 12, "c": 3}
    assert {one.kind for one in found.refused} == {"in two shards"}


def test_a_table_beside_shards_names_what_is_in_them(packed: Path) -> None:
    rows = [f"{label}/{number:03}.png,{'xy'[number % 2]}" for label in "ab" for number in range(12)]
    (packed / "labels.csv").write_text("\n".join(["file,label", *rows]), encoding="utf-8")
    assert Counter(entry.label for entry in indexing.scan(packed).entries) == {"x": 12, "y": 12}
    (packed / "labels.csv").write_text(
        "\n".join(["file,camera", *(row.replace("x", "old") for row in rows)]), encoding="utf-8"
    )
    found = indexing.scan(packed)
    assert Counter(entry.label for entry in found.entries) == {"a": 12, "b": 12}
    assert Counter(entry.metadata["camera"] for entry in found.entries) == {"old": 12, "y": 12}


def test_a_table_in_a_shard_is_read_there(tmp_path: Path, folder: Path) -> None:
    rows = [f"{label}/{number:03}.png,{'xy'[number % 2]}" for label in "ab" for number in range(12)]
    table = "\n".join(["file_name,label", *rows]).encode()
    tars.save(tmp_path / "data" / "train.tar", tars.of(folder) | {"metadata.csv": table})
    assert Counter(entry.label for entry in indexing.scan(tmp_path / "data").entries) == {"x": 12, "y": 12}


# WebDataset's samples.


def samples(target: Path, folder: Path, say: object, name: str = "shard-{:06}.tar") -> Path:
    """Two shards of samples: ``say`` gives what is beside the image of a number, by ending."""
    for number, label in enumerate("ab"):
        members: dict[str, bytes] = {}
        for place, content in enumerate(tars.of(folder / label).values()):
            beside = say(place)  # type: ignore[operator]
            members |= {f"{place:06}.{ending}": str(text).encode() for ending, text in beside.items()}
            members[f"{place:06}.png"] = content
        tars.save(target / name.format(number), members)
    return target


@pytest.mark.parametrize(
    ("say", "expected"),
    [
        pytest.param(lambda n: {"cls": n % 3}, {"0": 8, "1": 8, "2": 8}, id="numbers"),
        pytest.param(lambda n: {"cls": "xyz"[n % 3] + "\n"}, {"x": 8, "y": 8, "z": 8}, id="names"),
        pytest.param(lambda n: {"txt": "xy"[n % 2]}, {"x": 12, "y": 12}, id="text"),
        pytest.param(lambda n: {"json": json.dumps({"label": "xy"[n % 2]})}, {"x": 12, "y": 12}, id="json"),
        pytest.param(
            lambda n: {"cls": n % 2, "json": json.dumps({"class_name": "xy"[n % 2]}), "txt": f"caption {n}"},
            {"x": 12, "y": 12},
            id="words-before-numbers",
        ),
    ],
)
def test_what_lies_beside_an_image_is_its_class(
    tmp_path: Path, folder: Path, say: object, expected: dict[str, int]
) -> None:
    data = samples(tmp_path / "data", folder, say)
    built = indexing.build(data, DATASET, 0)
    assert Counter(one.label for one in built.records) == expected
    assert len({one.path for one in built.records}) == 24, "both shards number their samples from 0"
    assert built.refused == []
    assert built.predefined == []


def test_samples_say_splits_groups_and_slices(tmp_path: Path, folder: Path) -> None:
    def say(n: int) -> dict[str, str]:
        about = {"split": "test" if n < 4 else "train", "patient": f"p{n}", "camera": "NC"[n % 2], "url": f"u{n}" * 40}
        return {"json": json.dumps({"label": "xy"[n % 2], **about})}

    found = indexing.scan(samples(tmp_path / "data", folder, say))
    assert Counter(entry.split for entry in found.entries) == {"test": 8, "train": 16}
    assert {entry.group for entry in found.entries} == {f"p{n}" for n in range(12)}
    assert {*found.entries[0].metadata} <= {"camera"}
    assert "columns that are left out: url" in found.notes


def test_names_of_shards_say_the_split_of_samples(tmp_path: Path, folder: Path) -> None:
    samples(tmp_path / "data", folder, lambda n: {"cls": n % 2}, "train-{:06}.tar")
    (tmp_path / "data" / "train-000001.tar").rename(tmp_path / "data" / "val-000001.tar")
    assert all((entry.split or "") in entry.path for entry in indexing.scan(tmp_path / "data").entries)


def test_a_list_names_the_numbers_of_classes(tmp_path: Path, folder: Path) -> None:
    data = samples(tmp_path / "data", folder, lambda n: {"cls": n % 2})
    (data / "classnames.txt").write_text("cat\ndog\n", encoding="utf-8")
    sources.write_images(data, tmp_path / "target", Options())
    for place in (data, tmp_path / "target"):
        found = indexing.scan(place)
        assert Counter(entry.label for entry in found.entries) == {"cat": 12, "dog": 12}
        assert found.refused == []


def test_a_sample_without_a_class_is_refused(tmp_path: Path, folder: Path) -> None:
    data = samples(tmp_path / "data", folder, lambda n: {"cls": n % 2} if n else {"json": "{"})
    assert [(one.path, one.kind) for one in indexing.scan(data).refused] == [
        ("shard-000000.tar/000000.png", "no label"),
        ("shard-000001.tar/000000.png", "no label"),
    ]


def test_captions_are_no_classes(tmp_path: Path, folder: Path) -> None:
    data = samples(tmp_path / "data", folder, lambda n: {"txt": f"a picture of {n}"})
    with pytest.raises(UserError, match="expected a folder for each class"):
        indexing.scan(data)


def test_what_lies_beside_images_in_class_folders_does_not_hide_these(tmp_path: Path, folder: Path) -> None:
    members = tars.of(folder)
    members |= {name.replace(".png", ".txt"): f"0 {n}".encode() for n, name in enumerate(members)}
    found = indexing.scan(tars.save(tmp_path / "data" / "shard-000000.tar", members).parent)
    assert Counter(entry.label for entry in found.entries) == {"a": 12, "b": 12}
    assert {one.kind for one in found.refused} == {"not an image"}


# The rest of the pipeline.


def test_corrections_are_of_images_in_shards(packed: Path) -> None:
    record = indexing.build(packed, DATASET, 0).records[0]
    corrections.write(packed / "corrections.csv", [Correction(record.path, "relabel", "b")])
    built = indexing.build(packed, DATASET, 0)
    assert {one.path: one.label for one in built.records}[record.path] == "b"
    assert built.corrections["unmatched"] == 0


@pytest.mark.slow
def test_features_are_the_same_bytes(toy: Backbone, tmp_path: Path, folder: Path, packed: Path) -> None:
    plain = toy.model_copy(update={"engine": "tensorflow"})
    none, seen = Augment.model_validate(options.AUGMENT), []
    for data in (folder, packed):
        records = sorted(indexing.build(data, DATASET, 0).records, key=lambda one: bare(one.path))
        features.extract(plain, views.of(records, none, 0), data, tmp_path / "out.npy")
        seen.append((tmp_path / "out.npy").read_bytes())
        shutil.rmtree(tmp_path / "cache")
    assert seen[0] == seen[1]
