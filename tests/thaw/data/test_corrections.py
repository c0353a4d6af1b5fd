"""What a person has put right: the file, what comes of several, and what prepare makes of it."""

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.helpers import pictures
from thaw.config.schema import Dataset
from thaw.data import corrections, files, indexing, layouts, manifest, sources
from thaw.data.corrections import Correction
from thaw.data.layouts import CORRECTIONS, Options
from thaw.data.manifest import Record, Split
from thaw.errors import UserError

DATASET = Dataset(val=0.3, test=0.3, min_images=2, max_megapixels=1.0)
SHARES: dict[Split, float] = {"test": 0.2, "val": 0.3}
PATHS = [f"{label}/{number}" for label in "abc" for number in range(12)]
RECORDS = [
    Record(path, path[0], "train", f"{number * 7919 % 1000:064x}", 1, 1, "") for number, path in enumerate(PATHS)
]

KEEP = st.builds(Correction, st.sampled_from(PATHS), st.sampled_from(["keep", "remove"]))
RELABEL = st.builds(Correction, st.sampled_from(PATHS), st.just("relabel"), st.sampled_from("abcd"))
TWO = st.lists(st.sampled_from(PATHS), min_size=2, max_size=2, unique=True).map(sorted)
SAME = TWO.map(lambda pair: Correction(pair[0], "same", pair[1]))
APART = TWO.map(lambda pair: Correction(pair[0], "different", pair[1]))
# What one file may say: of an image, and of a pair of them, one verdict.
FILES = st.lists(st.one_of(KEEP, RELABEL, SAME, APART), max_size=12).map(lambda listed: corrections.merge([], listed))


def written(file: Path, *rows: str) -> Path:
    file.write_text("\n".join(["path,action,value", *rows, ""]), encoding="utf-8")
    return file


def correct(data: Path, *rows: str) -> Path:
    return written(data / CORRECTIONS, *rows)


def link(one: str, other: str) -> Correction:
    return Correction(one, "same", other)


# The file.


def test_a_file_is_read_sorted_and_each_row_once(tmp_path: Path) -> None:
    rows = [
        "d/1.jpg,same,c/1.jpg",
        "c/2.jpg, relabel ,dogs",
        "c/3.jpg,remove,",
        "c/1.jpg,same,d/1.jpg",
        "c/3.jpg,remove,",
    ]
    assert corrections.read(written(tmp_path / "any.csv", *rows)) == [
        Correction("c/1.jpg", "same", "d/1.jpg"),
        Correction("c/2.jpg", "relabel", "dogs"),
        Correction("c/3.jpg", "remove"),
    ]
    assert corrections.read(written(tmp_path / "none.csv")) == []


@pytest.mark.parametrize("row", ["", "   ", ",,", ' , ,""', ",,,,", "\t"])
def test_blank_rows_are_no_rows(tmp_path: Path, row: str) -> None:
    file = tmp_path / "any.csv"
    for end in ("\n", "\r\n", "\r"):
        lines = [row, " path ,action, value", row, row, "c/1.jpg,keep", row]
        file.write_text(end.join(lines), encoding="utf-8", newline="")
        assert corrections.read(file) == [Correction("c/1.jpg", "keep")]
        shutil.copy(file, tmp_path / CORRECTIONS)
        assert corrections.of(tmp_path) == [Correction("c/1.jpg", "keep")], "nor is a file with some overlooked"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_spreadsheet_may_have_saved_it(tmp_path: Path, encoding: str, separator: str) -> None:
    file = tmp_path / CORRECTIONS
    rows = ["action,path,value", "relabel,é/1.jpg,dogs", "keep,é/2.jpg,"]
    file.write_bytes("\r\n".join(rows).replace(",", separator).encode(encoding))
    assert files.is_corrections(file)
    assert corrections.read(file) == [Correction("é/1.jpg", "relabel", "dogs"), Correction("é/2.jpg", "keep")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "path,action,value\na.jpg,delete,\n",
            "row 2: expected the action keep, .* or different, found 'delete'; correct it",
        ),
        ("path,action,value\na.jpg,relable,b\n", r"found 'relable' \(did you mean 'relabel'\?\); correct it"),
        (
            "path,action,value\na.jpg,relabel,\n",
            "expected a path and, with relabel, a class in the column value, found",
        ),
        ("path,action,value\na.jpg,relabel, \n", "with relabel, a class"),
        ('path,action,value\na.jpg,relabel,"b\nc"\n', "with relabel, a class"),
        ("path,action,value\na.jpg,keep,b\n", "with keep, nothing in the column value, found 'a.jpg' and 'b'"),
        ("path,action,value\na.jpg,same,\n", "with same, the path of another image"),
        ("path,action,value\na.jpg,same,a.jpg\n", "with same, the path of another image"),
        ("path,action,value\n,keep,\n", "expected a path and, with keep, nothing .* found '' and ''"),
        ("path,action,label\na.jpg,keep,\n", "expected the keys path, action, value, found 'label'"),
        ("path,action,value,note\na.jpg,keep,,x\n", "expected the keys path, action, value, found 'note'"),
        ("path,action\na.jpg,keep\n", "expected the columns path, action, value, found no 'value'; add it"),
        ("path,what\n", "expected the keys path, action, value, found 'what'"),
        ("", "expected the columns path, action, value, found no 'path'"),
        ("path,action,value\n  ,keep,\n", "expected a path and, with keep, nothing"),
        ("path,action,value\na.jpg,keep,,,x\n", "line 2 has more cells than the header"),
        ("path,action,value\na.jpg,keep,\na.jpg,remove,\n", "expected one verdict on 'a.jpg', found keep and remove"),
        (
            "path,action,value\na,relabel,x\na,relabel,y\n",
            "one verdict on 'a', found relabel x and relabel y; remove one",
        ),
        ("\x00\xff", "expected a table in UTF-8 or UTF-16"),
    ],
)
def test_mistakes_in_a_file_are_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / CORRECTIONS
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=message) as caught:
        corrections.read(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing.csv", "."])
def test_a_file_that_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="expected corrections in .*, found no such file; name the one that"):
        corrections.read(tmp_path / name)


@given(listed=FILES, order=st.randoms())
@settings(deadline=None)
def test_what_is_written_is_read_whatever_the_order(
    tmp_path_factory: pytest.TempPathFactory, listed: list[Correction], order: Random
) -> None:
    folder = tmp_path_factory.mktemp("file")
    shuffled = list(listed)
    order.shuffle(shuffled)
    corrections.write(folder / "1.csv", listed)
    corrections.write(folder / "2.csv", shuffled)
    assert (folder / "1.csv").read_bytes() == (folder / "2.csv").read_bytes()
    assert corrections.read(folder / "1.csv") == listed
    assert [path.name for path in sorted(folder.iterdir())] == ["1.csv", "2.csv"]


def test_any_names_survive_the_file(tmp_path: Path) -> None:
    spaced = [link(" a", "b ")]
    corrections.write(tmp_path / CORRECTIONS, spaced)
    assert corrections.read(tmp_path / CORRECTIONS) == spaced
    names = ['a "b", c;\té ü.png', " 日本 .png", "'|.jpg", "-1", "path"]
    listed = corrections.merge(
        [], [Correction(name, "relabel", f"{name.strip()}, x") for name in names if "\t" not in name]
    )
    corrections.write(tmp_path / CORRECTIONS, listed)
    assert corrections.read(tmp_path / CORRECTIONS) == listed


# Several files.


def test_the_newer_verdict_holds_and_what_is_the_same_stays_so() -> None:
    old = [Correction("1", "keep"), Correction("2", "relabel", "x"), link("3", "4")]
    new = [Correction("1", "remove"), Correction("2", "relabel", "y"), Correction("3", "keep"), link("4", "5")]
    assert corrections.merge(old, new) == sorted([*new, link("3", "4")])
    assert corrections.counted(corrections.merge(old, new)) == "1 relabelled, 1 removed, 1 kept, 2 pairs"
    assert corrections.counted([link("3", "4")]) == "1 pair"
    assert corrections.counted([]) == "none"


@given(one=FILES, two=FILES, three=FILES)
@settings(deadline=None)
def test_merging_is_idempotent_and_associative(
    one: list[Correction], two: list[Correction], three: list[Correction]
) -> None:
    both = corrections.merge(one, two)
    assert corrections.merge(both, two) == both == corrections.merge([], both) == corrections.merge(both, [])
    assert corrections.merge(both, three) == corrections.merge(one, corrections.merge(two, three))
    assert len({one.paths for one in both}) == len(both)
    assert both == sorted(both)


# What becomes of images.


def corrected(records: Sequence[Record], listed: Sequence[Correction]) -> list[Record]:
    return corrections.group(corrections.apply(records, listed)[0], listed)


@given(listed=FILES, order=st.randoms())
@settings(deadline=None)
def test_applying_is_idempotent_and_knows_no_order(listed: list[Correction], order: Random) -> None:
    shuffled = list(listed)
    order.shuffle(shuffled)
    stay, left_out = corrections.apply(RECORDS, listed)
    assert (stay, left_out) == corrections.apply(RECORDS, shuffled)
    assert {one.reason for one in left_out} <= {"removed by a correction"}
    assert sorted([one.path for one in stay] + [one.path for one in left_out]) == sorted(PATHS)
    after = corrected(RECORDS, listed)
    assert after == corrected(RECORDS, shuffled) == corrected(after, listed)
    assert sorted(after, key=lambda one: one.path) == sorted(
        corrected(RECORDS[::-1], listed), key=lambda one: one.path
    ), "nor do the images"
    assert corrected(RECORDS, []) == RECORDS


@given(listed=FILES, seed=st.integers(0, 1000), given_groups=st.booleans())
@settings(deadline=None)
def test_what_shows_the_same_object_is_in_one_split(listed: list[Correction], seed: int, given_groups: bool) -> None:
    records = [
        replace(one, group=f"g{number % 7}" if given_groups and number % 2 else "")
        for number, one in enumerate(RECORDS)
    ]
    after = corrected(records, listed)
    split = indexing.draw(after, SHARES, seed)
    for one in listed:
        if one.action == "same" and {*one.paths} <= {*split}:
            assert len({split[path] for path in one.paths}) == 1
    groups = {one.path: one.group for one in after}
    for one in records:  # and so are, still, the groups of the data
        members = [other.path for other in records if one.group and other.group == one.group and other.path in groups]
        assert len({groups[path] for path in members}) <= 1


@given(listed=st.one_of(KEEP, RELABEL, SAME), seed=st.integers(0, 10**6), per_class=st.integers(1, 12))
@settings(deadline=None)
def test_a_correction_moves_none_but_of_its_own_classes(listed: Correction, seed: int, per_class: int) -> None:
    """As ``draw`` says: in a small class three at most, for each image that it gets or loses."""
    records = [one for one in RECORDS if int(one.path[2:]) < per_class]
    assume({*listed.paths} <= {one.path for one in records})
    before = indexing.draw(records, SHARES, seed)
    after = indexing.draw(corrected(records, [listed]), SHARES, seed)
    moved = [path for path in after if after[path] != before[path] and path not in listed.paths]
    if listed.action == "keep":
        assert after == before
    concerned = {path[0] for path in listed.paths} | {listed.value if listed.action == "relabel" else ""}
    assert {path[0] for path in moved} <= concerned
    assert all(count <= 6 for count in Counter(path[0] for path in moved).values())


def test_of_two_in_a_large_class_one_stays_and_the_other_joins_it() -> None:
    records = [Record(f"{number}", "a", "train", f"{number:064x}", 1, 1, "") for number in range(1500)]
    before = indexing.draw(records, SHARES, 0)
    listed = [link("7", "900"), link("33", "900"), link("5", "6")]
    after = indexing.draw(corrected(records, listed), SHARES, 0)
    assert {path: split for path, split in after.items() if path not in ("900", "33", "6")} == {
        path: split for path, split in before.items() if path not in ("900", "33", "6")
    }
    assert after["7"] == after["33"] == after["900"]


def named(*records: tuple[str, str, str]) -> list[Record]:
    return [Record(path, "a", "train", sha256 * 64, 1, 1, group) for path, sha256, group in records]


def test_groups_are_named_by_those_of_the_data_or_by_content() -> None:
    records = named(("1", "5", ""), ("2", "3", ""), ("3", "4", "q"), ("4", "6", "p"), ("5", "7", "p"), ("6", "3", ""))

    def groups(*links: Correction) -> list[str]:
        return [one.group for one in corrections.group(records, links)]

    same = manifest.SAME + "3" * 64
    assert groups(link("1", "2")) == [same, same, "q", "p", "p", same], "and the copy, 6, with them"
    assert groups(link("1", "3")) == ["q", "", "q", "p", "p", ""]
    assert groups(link("1", "3"), link("1", "4")) == ["p", "", "p", "p", "p", ""]
    assert groups(link("1", "gone"), link("2", "gone")) == [same, same, "q", "p", "p", same], (
        "by way of one that is gone"
    )
    assert groups(link("1", "gone")) == ["", "", "q", "p", "p", ""]
    assert corrections.group(records, [link("1", "2")])[0].unit == records[1].unit == "image/" + "3" * 64


# In prepare.


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return pictures.fill(tmp_path / "data", {"cats": 12, "dogs": 12})


def rows(built: indexing.Manifest) -> dict[str, Record]:
    return {one.path: one for one in built.records}


def build(data: Path, dedupe: str = "group", seed: int = 0) -> indexing.Manifest:
    return indexing.build(data, Dataset.model_validate(DATASET.model_dump() | {"dedupe": dedupe}), seed)


def test_prepare_applies_them_and_says_so(data: Path) -> None:
    before = build(data)
    correct(
        data,
        "cats/000.png,keep,",
        "cats/001.png,relabel,dogs",
        "cats/002.png,remove,",
        "cats/003.png,same,cats/004.png",
        "cats/099.png,remove,",
        "cats/000.png,same,cats/099.png",
    )
    after = build(data)
    assert {one.path for one in before.records} - {one.path for one in after.records} == {"cats/002.png"}
    assert [(one.path, one.reason) for one in after.refused] == [("cats/002.png", "removed by a correction")]
    found = rows(after)
    assert found["cats/001.png"].label == "dogs"
    assert found["cats/003.png"].split == found["cats/004.png"].split
    assert found["cats/003.png"].group == found["cats/004.png"].group != ""
    assert {one.group for path, one in found.items() if path not in ("cats/003.png", "cats/004.png")} == {""}
    moved = sum(found[one.path].split != one.split for one in before.records if one.path in found)
    counts = {"keep": 1, "relabel": 1, "remove": 1, "same": 1, "different": 0, "unmatched": 2, "moved": moved}
    assert after.corrections == counts
    said = "corrections: 1 relabelled, 1 removed, 1 kept, 1 pair; 2 of images that are not there"
    assert after.notes == [said + (f"; {moved} x an image in another split because of them" if moved else "")]
    assert (before.corrections, before.notes) == ({}, [])


@given(listed=FILES, seed=st.integers(0, 100), dedupe=st.sampled_from(["keep", "group", "drop"]))
@settings(max_examples=12, deadline=None)
def test_without_the_file_everything_is_as_before_byte_for_byte(
    tmp_path_factory: pytest.TempPathFactory, listed: list[Correction], seed: int, dedupe: str
) -> None:
    folder = tmp_path_factory.mktemp("undo")
    data = folder / "data"
    for number, path in enumerate(PATHS):
        pictures.save(data / f"{path}.png", number).rename(data / path)

    def rebuilt(name: str) -> bytes:
        manifest.write(folder / name, build(data, dedupe, seed).records)
        return (folder / name).read_bytes()

    before = rebuilt("before")
    corrections.write(data / CORRECTIONS, listed)
    built = build(data, dedupe, seed)
    assert len(built.records) + len(built.refused) == 36, "every image is accounted for, and the file is none"
    assert built.corrections.get("unmatched", 0) == 0
    (data / CORRECTIONS).unlink()
    assert rebuilt("after") == before


def test_a_new_class_needs_images(data: Path) -> None:
    correct(data, "cats/000.png,relabel,foxes")
    lone = build(data)
    assert lone.classes == ["cats", "dogs"]
    assert [(one.path, one.kind) for one in lone.refused] == [("cats/000.png", "too small a class")]
    assert lone.notes[0] == "classes that are left out, as too small: foxes"
    assert lone.notes[-1] == "a new class: 'foxes', 1 image"
    correct(data, "cats/000.png,relabel,foxes", "dogs/000.png,relabel,foxes", "dogs/001.png,relabel,foxes")
    assert build(data).classes == ["cats", "dogs", "foxes"]


def test_a_new_class_that_may_be_a_slip_is_asked_about_and_made(data: Path) -> None:
    correct(data, *(f"cats/{number:03}.png,relabel,Dog" for number in range(3)))
    built = build(data)
    assert built.classes == ["Dog", "cats", "dogs"]
    asked = "did you mean 'dogs'? 'Dog' is a new class, of 3 images: if it is a slip, relabel again"
    assert built.notes[-1] == asked


def test_a_relabelled_copy_is_in_two_classes_no_more(data: Path) -> None:
    shutil.copy(data / "cats" / "000.png", data / "dogs" / "copy.png")
    assert {one.kind for one in build(data).refused} == {"in two classes"}
    correct(data, "dogs/copy.png,relabel,cats")
    assert not build(data).refused
    correct(data, "dogs/copy.png,remove,")
    assert [one.reason for one in build(data).refused] == ["removed by a correction"]


@pytest.mark.parametrize(
    ("verdicts", "label"),
    [
        (["cats/000.png,keep,"], "cats"),
        (["dogs/copy.png,keep,"], "dogs"),
        (["cats/000.png,relabel,dogs"], "dogs"),
        (["cats/000.png,relabel,dogs", "cats/copy.png,relabel,dogs"], "dogs"),
        (["dogs/copy.png,remove,"], "cats"),
        (["cats/000.png,keep,", "cats/copy.png,relabel,cats"], "cats"),
        ([], ""),
        (["cats/000.png,keep,", "dogs/copy.png,keep,"], ""),
        (["cats/000.png,relabel,dogs", "cats/copy.png,relabel,cats"], ""),
    ],
)
@pytest.mark.parametrize("dedupe", ["group", "keep", "drop"])
def test_a_verdict_on_one_of_identical_files_is_one_on_all(
    data: Path, verdicts: list[str], label: str, dedupe: str
) -> None:
    """Without one, or with several that contradict each other, none is used, and the audit asks about them."""
    same = ["cats/000.png", "cats/copy.png", "dogs/copy.png"]
    for path in same[1:]:
        shutil.copy(data / same[0], data / path)
    correct(data, *verdicts)
    built = build(data, dedupe)
    found = {path: one for path, one in rows(built).items() if path in same}
    if not label:
        assert not found
        assert sorted(one.path for one in built.contradictory) == same
        return
    left = [path for path in same if f"{path},remove," not in verdicts]
    assert [*found] == (left[:1] if dedupe == "drop" else left)
    assert {(one.label, one.split) for one in found.values()} == {(label, found[left[0]].split)}
    assert not built.contradictory


def test_relabelling_one_of_two_identical_files_of_a_class_loses_neither(data: Path) -> None:
    shutil.copy(data / "cats" / "000.png", data / "cats" / "copy.png")
    correct(data, "cats/000.png,relabel,dogs")
    built = build(data)
    assert {path: one.label for path, one in rows(built).items() if path in ("cats/000.png", "cats/copy.png")} == {
        "cats/000.png": "dogs",
        "cats/copy.png": "dogs",
    }
    assert (built.refused, built.corrections["relabel"]) == ([], 1)


def test_the_same_object_in_two_classes_is_asked_about_where_drop_uses_none(data: Path) -> None:
    correct(data, "cats/001.png,same,dogs/003.png")
    assert [one.path for one in build(data, "drop").contradictory] == ["cats/001.png", "dogs/003.png"]
    assert build(data, "group").contradictory == []
    correct(data, "cats/001.png,same,dogs/003.png", "dogs/003.png,relabel,cats")
    assert build(data, "drop").contradictory == []


def test_spaces_around_a_path_are_no_part_of_it_where_no_image_is_called_so(data: Path) -> None:
    correct(data, " cats/000.png , relabel , dogs ", "cats/001.png, same, cats/002.png")
    assert corrections.of(data) == [
        Correction("cats/000.png", "relabel", "dogs"),
        Correction("cats/001.png", "same", "cats/002.png"),
    ]
    assert build(data).corrections["unmatched"] == 0
    correct(data, "cats/000.png,keep,", " cats/000.png,remove,")
    with pytest.raises(
        UserError, match=f"{CORRECTIONS}: expected one verdict on 'cats/000.png', found keep and remove"
    ):
        corrections.of(data)
    correct(data, "cats/000.png,same, cats/000.png")
    with pytest.raises(UserError, match=f"{CORRECTIONS}: expected two images with same, found 'cats/000.png' twice"):
        corrections.of(data)
    (data / " cats").mkdir()
    shutil.copy(data / "cats" / "001.png", data / " cats" / "000.png")
    correct(data, " cats/000.png,keep,")
    assert corrections.of(data) == [Correction(" cats/000.png", "keep")]


def test_corrections_of_what_cannot_be_used_change_no_reason(data: Path) -> None:
    (data / "cats" / "empty.png").touch()
    correct(data, "cats/empty.png,remove,")
    built = build(data)
    assert [(one.path, one.reason) for one in built.refused] == [("cats/empty.png", "empty file")]
    assert built.corrections["remove"] == 1


def test_dedupe(data: Path) -> None:
    shutil.copy(data / "cats" / "001.png", data / "cats" / "copy.png")
    correct(data, "cats/001.png,same,cats/005.png", "dogs/003.png,same,cats/005.png")
    group, keep, drop = (build(data, dedupe) for dedupe in ("group", "keep", "drop"))
    object_ = ["cats/001.png", "cats/005.png", "cats/copy.png", "dogs/003.png"]
    assert len({rows(group)[path].split for path in object_}) == 1
    assert len({rows(group)[path].group for path in object_}) == 1
    assert {one.group for one in keep.records} == {""}
    assert rows(keep)["cats/001.png"].split == rows(keep)["cats/copy.png"].split
    assert len(group.records) == len(keep.records) == 25
    contradictory = "in two classes: the same object is labelled 'cats' and 'dogs'"
    assert [(one.path, one.reason) for one in drop.refused] == [(path, contradictory) for path in object_]
    correct(data, "cats/001.png,same,cats/005.png")
    assert [(one.path, one.reason) for one in build(data, "drop").refused] == [
        ("cats/005.png", "the same object: 'cats/001.png'"),
        ("cats/copy.png", "a copy: the same image is 'cats/001.png'"),
    ]
    (data / CORRECTIONS).unlink()
    assert [one.path for one in build(data, "drop").refused] == ["cats/copy.png"]
    assert {one.group for one in build(data).records} == {""}


def test_what_straddles_the_splits_of_the_data_is_said_and_not_moved(tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert corrections.of(tmp_path) == []
    for number, split in enumerate(layouts.SPLITS):
        pictures.fill(data / split, {"a": 4, "b": 4}, start=100 * number)
    correct(
        data,
        "train/a/000.png,same,test/a/001.png",
        "val/a/002.png,same,test/a/001.png",
        "train/b/000.png,same,val/b/000.png",
        "train/b/001.png,same,train/b/002.png",
    )
    said = (
        "2 groups of the same object straddle the data's own splits: train/a/000.png (train) and val/a/002.png (val) "
        "and test/a/001.png (test), train/b/000.png (train) and val/b/000.png (val); with dedupe: drop, one image of "
        "each stays"
    )
    for dedupe in ("group", "keep"):
        built = build(data, dedupe)
        assert built.notes[0] == said
        assert all(one.path.startswith(one.split) for one in built.records)
        assert len(built.records) == 24
    dropped = build(data, "drop")
    assert [one.path for one in dropped.refused] == [
        "train/a/000.png",
        "train/b/000.png",
        "train/b/002.png",
        "val/a/002.png",
    ]
    assert not [note for note in dropped.notes if "straddle" in note]
    correct(data, "train/a/000.png,same,test/a/001.png")
    assert build(data).notes[0].startswith("1 group of the same object straddles the data's own splits: train/a")


def test_mistakes_in_the_file_of_the_data_are_one_sentence(data: Path) -> None:
    correct(data, "cats/000.png,delete,")
    with pytest.raises(UserError, match=f"{CORRECTIONS}, row 2: expected the action"):
        build(data)


# Beside the images.


def test_the_file_is_no_table_no_image_and_no_stray_file(data: Path) -> None:
    correct(data, "cats/000.png,keep,")
    built = build(data)
    assert (len(built.records), built.refused) == (24, [])
    assert CORRECTIONS not in files.listing(data).paths
    (data / CORRECTIONS).write_text("path,label\ncats/000.png,x\ndogs/000.png,y\n")
    assert {one.label for one in indexing.scan(data).entries} == {"x", "y"}, "another table of that name is one"
    assert not files.is_corrections(data / "index.csv")
    (data / CORRECTIONS).unlink()
    (data / CORRECTIONS).mkdir()
    assert not files.is_corrections(data / CORRECTIONS)


@pytest.mark.parametrize(
    ("place", "options"),
    [
        pytest.param("", Options(), id="around all"),
        pytest.param("wrapped/", Options(), id="with the class folders"),
        pytest.param("", Options(label_from=r"(cats|dogs)"), id="listed"),
    ],
)
def test_those_in_a_persons_folder_are_taken_along(tmp_path: Path, place: str, options: Options) -> None:
    photos, data = tmp_path / "photos", tmp_path / "data"
    pictures.fill(photos / "wrapped", {"cats": 4, "dogs": 4})
    inner = "" if place else "wrapped/"  # paths are relative to the file
    relabelled, pair = f"{inner}cats/000.png,relabel,dogs", f"{inner}cats/001.png,same,{inner}cats/002.png"
    written(photos / place / CORRECTIONS, relabelled, pair)
    layout = sources.write_images(photos, data, options)
    assert layout.notes[-1] == "corrections.csv is taken along: 1 relabelled, 1 pair"
    assert not [one for one in layout.refused if CORRECTIONS in one.path]
    kept = "wrapped/" if layout.listed else ""
    assert corrections.read(data / CORRECTIONS) == [
        Correction(f"{kept}cats/000.png", "relabel", "dogs"),
        link(f"{kept}cats/001.png", f"{kept}cats/002.png"),
    ]
    built = build(data)
    assert built.corrections["unmatched"] == 0
    assert rows(built)[f"{kept}cats/000.png"].label == "dogs"


def test_a_table_of_that_name_in_a_persons_folder_is_what_it_was(tmp_path: Path) -> None:
    photos = pictures.fill(tmp_path / "photos", {"cats": 4, "dogs": 4})
    (photos / CORRECTIONS).write_text("path,why\nsome,thing\n")
    layout = sources.write_images(photos, tmp_path / "data", Options())
    assert [one.path for one in layout.refused] == [CORRECTIONS]
    assert not (tmp_path / "data" / CORRECTIONS).exists()


def test_the_file_is_a_plain_table(tmp_path: Path) -> None:
    corrections.write(tmp_path / CORRECTIONS, [Correction("b", "keep"), link("a", "b")])
    assert (tmp_path / CORRECTIONS).read_bytes() == b"path,action,value\na,same,b\nb,keep,\n"
