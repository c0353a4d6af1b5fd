"""Corrections of data that are there: with real DVC, whatever its cache links to."""

import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from stages import get_data, prepare
from tests.helpers import pictures, tars
from tests.helpers.project import Project, repository
from thaw.artifacts import PROJECT, Paths, read_json
from thaw.config.schema import Dataset
from thaw.data import corrections, manifest, versioning
from thaw.data.corrections import Correction
from thaw.data.layouts import CORRECTIONS
from thaw.evidence import layout


def written(file: Path, *rows: str) -> Path:
    file.write_text("\n".join(["path,action,value", *rows, ""]), encoding="utf-8")
    return file


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with data, where DVC, which takes seconds, is only told to track them."""
    monkeypatch.setattr(versioning, "_dvc_add", lambda root: (root / "tracked").write_text("yes", encoding="utf-8"))
    (tmp_path / "project" / ".dvc").mkdir(parents=True)
    pictures.fill(tmp_path / "project" / "data", {"cats": 12, "dogs": 12})
    return tmp_path / "project"


Correct = Callable[..., str]


@pytest.fixture
def correct(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Correct:
    """Apply corrections, given as rows, and return what is said."""

    def run(*rows: str) -> str:
        (root / "tracked").unlink(missing_ok=True)
        get_data.main(["correct", str(written(tmp_path / "reviewed.csv", *rows))], root)
        assert (root / "tracked").exists()
        return capsys.readouterr().out

    return run


def images(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.png")}


def test_it_says_what_it_does_and_touches_no_image(root: Path, correct: Correct) -> None:
    before = images(root)
    first = ("cats/000.png,relabel,dogs", "cats/001.png,remove,", "cats/002.png,same,dogs/003.png")
    assert (
        correct(*first)
        == "3 corrections: 1 relabelled, 1 removed, 1 pair; data/corrections.csv has 3 now\nNext: make repro\n"
    )
    said = correct("cats/000.png,keep,", "cats/004.png,relabel,dogs")
    assert said.startswith("2 corrections: 1 relabelled, 1 kept; data/corrections.csv has 4 now\n")
    assert corrections.read(root / "data" / CORRECTIONS) == [
        Correction("cats/000.png", "keep"),
        Correction("cats/001.png", "remove"),
        Correction("cats/002.png", "same", "dogs/003.png"),
        Correction("cats/004.png", "relabel", "dogs"),
    ]
    kept = (root / "data" / CORRECTIONS).read_bytes()
    assert correct("cats/004.png,relabel,dogs").startswith("1 correction: 1 relabelled; data/corrections.csv has 4 now")
    assert (root / "data" / CORRECTIONS).read_bytes() == kept
    assert correct().startswith("0 corrections: none; data/corrections.csv has 4 now")
    assert images(root) == before
    assert [path.name for path in (root / "data").iterdir() if path.is_file()] == [CORRECTIONS]


def test_a_new_class_is_said_in_case_it_is_a_slip(root: Path, correct: Correct) -> None:
    said = correct("cats/000.png,relabel,dgos", "cats/001.png,relabel,dgos", "cats/002.png,relabel,dogs")
    asked = "did you mean 'dogs'? 'dgos' is a new class, of 2 images: if it is a slip, relabel again"
    assert said.endswith(f"\n  {asked}\nNext: make repro\n")
    assert "a new class" not in correct("cats/003.png,relabel,dgos"), "it is known by now"
    assert "\n  a new class: 'birds', 1 image\n" in correct("cats/004.png,relabel,birds")
    assert "\n  did you mean 'cats'? 'CATS' is a new class" in correct("dogs/004.png,relabel,CATS")
    many = [f"cats/{number:03}.png,relabel,dogz" for number in range(corrections.FEW)]
    assert f"\n  a new class: 'dogz', {corrections.FEW} images\n" in correct(*many)


def test_spaces_around_a_path_are_no_part_of_it(root: Path, correct: Correct) -> None:
    said = correct(" cats/000.png ; relabel ; dogs ".replace(";", ","), "cats/001.png, same, cats/002.png")
    assert said.startswith("2 corrections: 1 relabelled, 1 pair;")
    assert corrections.read(root / "data" / CORRECTIONS) == [
        Correction("cats/000.png", "relabel", "dogs"),
        Correction("cats/001.png", "same", "cats/002.png"),
    ]


def test_all_are_taken_back(root: Path, correct: Correct, capsys: pytest.CaptureFixture[str]) -> None:
    paths, dataset = (
        Paths(root / "data", root / "artifacts"),
        Dataset(val=0.3, test=0.3, min_images=2, max_megapixels=1),
    )
    prepare.run(paths, dataset, 0)
    before = {file.name: file.read_bytes() for file in paths.manifest.parent.iterdir()}
    correct("cats/000.png,relabel,dogs", "cats/001.png,remove,", "cats/002.png,same,dogs/003.png")
    prepare.run(paths, dataset, 0)
    said, summary = capsys.readouterr().out, read_json(paths.manifest.with_name("summary.json"))
    assert "\n  corrections: 1 relabelled, 1 removed, 1 pair" in said
    assert "\n  refused: 1 x removed by a correction\n" in said
    expected = {"keep": 0, "relabel": 1, "remove": 1, "same": 1, "different": 0, "unmatched": 0}
    assert {key: value for key, value in summary["corrections"].items() if key != "moved"} == expected
    assert summary["notes"][-1].startswith("corrections: 1 relabelled")
    assert "Corrections: 1 relabelled, 1 removed, 1 pair" in "\n".join(layout.notes(summary, dataset.model_dump()))
    get_data.main(["correct", "--undo"], root)
    said = "all corrections are taken back: there is no data/corrections.csv any more\nNext: make repro\n"
    assert capsys.readouterr().out == said
    assert not (root / "data" / CORRECTIONS).exists()
    prepare.run(paths, dataset, 0)
    assert {file.name: file.read_bytes() for file in paths.manifest.parent.iterdir()} == before
    capsys.readouterr()
    get_data.main(["correct", "--undo"], root)
    assert capsys.readouterr().out == "there are no corrections to take back\nNext: make repro\n"


def test_images_that_have_been_packed_since_are_found_in_their_shards(root: Path, correct: Correct) -> None:
    """And those whose shard has got another number."""
    shutil.move(root / "data", root / "folder")
    tars.shards(root / "folder", root / "data", 3)
    correct("cats/000.png,remove,", "shard-000007.tar/cats/001.png,same,shard-000000.tar/dogs/000.png")
    assert corrections.read(root / "data" / CORRECTIONS) == [
        Correction("shard-000000.tar/cats/000.png", "remove"),
        Correction("shard-000000.tar/dogs/000.png", "same", "shard-000001.tar/cats/001.png"),
    ]


def test_what_was_there_and_is_no_more_is_said_and_left_out(root: Path, correct: Correct) -> None:
    """A person looked at it, in the results of prepare, or has corrected it before."""
    paths = Paths(root / "data", root / "artifacts")
    shutil.copy(root / "data/cats/002.png", root / "data/dogs/copy.png")  # which is refused, and asked about
    prepare.run(paths, Dataset(val=0.3, test=0.3, min_images=2, max_megapixels=1), 0)
    correct("dogs/001.png,remove,", "cats/000.png,keep,")
    for name in ("cats/000.png", "dogs/001.png", "dogs/copy.png"):
        (root / "data" / name).unlink()
    rows = ("cats/001.png,same,cats/000.png", "dogs/001.png,keep,", "dogs/002.png,keep,", "dogs/copy.png,keep,")
    assert correct(*rows) == (
        "1 correction: 1 kept; data/corrections.csv has 3 now\n"
        "  left out, as the data have no such file any more: cats/000.png, dogs/001.png, dogs/copy.png\n"
        "Next: make repro\n"
    )


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            ["cats/0000.png,keep,"],
            r"expected the paths of images in .*data, found 'cats/0000.png' \(did you mean 'cats/",
        ),
        (["cats/000.png,same,dogs/33.png"], r"found 'dogs/33.png' \(did you mean 'dogs/"),
        (["birds,keep,"], "found 'birds'; correct it"),
        (["cats/000.png,drop,"], "row 3: expected the action keep, relabel, remove, same or different, found 'drop'"),
        (["cats/000.png,relabel,"], "with relabel, a class in the column value"),
        (
            ["cats/000.png,relabel,dogs", "cats/000.png,remove,"],
            "one verdict on 'cats/000.png', found relabel dogs and",
        ),
    ],
)
def test_mistakes_change_nothing(root: Path, tmp_path: Path, rows: list[str], message: str) -> None:
    written(root / "data" / CORRECTIONS, "cats/001.png,keep,")
    before = (root / "data" / CORRECTIONS).read_bytes()
    file = written(tmp_path / "reviewed.csv", "cats/002.png,remove,", *rows).as_posix()
    with pytest.raises(SystemExit, match=f"^error: .*{message}") as caught:
        get_data.main(["correct", file], root)
    assert "\n" not in str(caught.value)
    assert (root / "data" / CORRECTIONS).read_bytes() == before
    assert not (root / "tracked").exists()


def test_a_file_that_was_broken_by_hand_is_named_and_not_lost(root: Path, tmp_path: Path) -> None:
    (root / "data" / CORRECTIONS).write_text("path,what\ncats/000.png,keep\n", encoding="utf-8")
    file = written(tmp_path / "reviewed.csv", "cats/001.png,keep,")
    with pytest.raises(SystemExit, match=r"data.corrections.csv: expected the keys path, action, value, found 'what'"):
        get_data.main(["correct", str(file)], root)


@pytest.mark.parametrize("undo", [False, True])
def test_without_data_there_is_nothing_to_correct(root: Path, tmp_path: Path, undo: bool) -> None:
    file = written(tmp_path / "reviewed.csv", "cats/001.png,keep,")
    command = ["correct", "--undo"] if undo else ["correct", str(file)]
    (root / "data").rename(tmp_path / "elsewhere")
    with pytest.raises(
        SystemExit, match="error: expected data in .*, found none; bring some, or 'dvc checkout data.dvc'"
    ):
        get_data.main(command, root)
    (root / "data").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    before = sorted(path.name for path in (tmp_path / "elsewhere").iterdir())
    with pytest.raises(
        SystemExit, match="error: expected a folder at .*data, found a link to one, .*; bring the images"
    ):
        get_data.main(command, root)
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == before
    (root / ".dvc").rmdir()
    with pytest.raises(SystemExit, match="error: expected a DVC project in .*run 'dvc init'"):
        get_data.main(command, root)


@pytest.mark.parametrize("arguments", [[], ["a.csv", "--undo"], ["--force", "a.csv"]])
def test_it_is_either_a_file_or_undo(root: Path, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        get_data.main(["correct", *arguments], root)
    assert caught.value.code == 2


def test_windows_is_asked_to_let_go_of_what_dvc_has_made_read_only(
    root: Path, correct: Correct, monkeypatch: pytest.MonkeyPatch
) -> None:
    correct("cats/000.png,keep,")
    kept = root / "data" / CORRECTIONS
    kept.chmod(stat.S_IREAD)
    asked, release = list[Path](), versioning._release

    def noted(file: Path) -> None:
        asked.append(file)
        release(file)

    monkeypatch.setattr(versioning, "_release", noted)
    correct("cats/001.png,keep,")
    get_data.main(["correct", "--undo"], root)
    assert asked == [kept, kept]


def test_new_data_say_that_they_come_without_the_corrections_of_the_former(
    root: Path, correct: Correct, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(PROJECT / "params.yaml", root)
    photos = pictures.fill(tmp_path / "photos", {"cats": 4, "dogs": 4})
    correct("cats/000.png,keep,")
    get_data.main(["folder", str(photos), "--force"], root)
    said = capsys.readouterr().out
    assert "the corrections of the former data are not in these: 'get_data correct FILE' applies them again\n" in said
    assert not (root / "data" / CORRECTIONS).exists()
    written(photos / CORRECTIONS, "cats/001.png,remove,")
    get_data.main(["folder", str(photos), "--force"], root)
    said = capsys.readouterr().out
    assert "  corrections.csv is taken along: 1 removed\n" in said
    assert "the corrections of the former data" not in said
    assert corrections.read(root / "data" / CORRECTIONS) == [Correction("cats/001.png", "remove")]


# With DVC.


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return repository(tmp_path_factory.mktemp("corrected") / "project")


def test_from_the_page_to_the_manifest_and_back(template: Project, tmp_path: Path) -> None:
    project = template.copy(tmp_path / "project")
    assert project.repro("prepare") == ["prepare"]
    project.commit()
    before, lock = project.paths.manifest.read_bytes(), project.lock
    file = written(
        tmp_path / "reviewed.csv", "blue/00.png,relabel,red", "red/01.png,remove,", "red/02.png,same,red/03.png"
    )
    done = project.stage("get_data", "correct", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("3 corrections: 1 relabelled, 1 removed, 1 pair; data/corrections.csv has 3 now\n")
    assert project.shell("git", "status", "--short") == " M data.dvc\n"
    said = project.dvc("repro", "prepare")
    assert "corrections: 1 relabelled, 1 removed, 1 pair" in said
    records = {one.path: one for one in manifest.read(project.paths.manifest)}
    assert records["blue/00.png"].label == "red"
    assert "red/01.png" not in records
    assert project.repro("prepare") == []
    project.commit()

    mistaken = project.stage("get_data", "correct", "nowhere.csv")
    assert (mistaken.returncode, mistaken.stdout) == (1, "")
    assert mistaken.stderr.startswith("error: expected corrections in nowhere.csv, found no such file")
    assert mistaken.stderr.count("\n") == 1

    assert project.stage("get_data", "correct", "--undo").returncode == 0
    project.repro("prepare")
    assert (project.paths.manifest.read_bytes(), project.lock) == (before, lock)
    # As docs/data.md says, an earlier state of the data has the corrections of then.
    project.bash("git checkout --quiet data.dvc && dvc checkout --quiet data.dvc")
    assert len(corrections.read(project.paths.data / CORRECTIONS)) == 3
    project.bash("git checkout --quiet HEAD~1 data.dvc && dvc checkout --quiet data.dvc")
    assert not (project.paths.data / CORRECTIONS).exists()


@pytest.mark.parametrize("kind", ["symlink", "hardlink"])
def test_the_cache_of_dvc_is_never_written_to(template: Project, tmp_path: Path, kind: str) -> None:
    project = template.copy(tmp_path / "project")
    project.dvc("config", "cache.type", kind)
    file = written(tmp_path / "reviewed.csv", "blue/00.png,relabel,red")
    for path in ("blue/00.png", "blue/01.png"):
        written(file, f"{path},relabel,red")
        assert project.stage("get_data", "correct", str(file)).returncode == 0
        kept = project.paths.data / CORRECTIONS
        assert kept.is_symlink() or kept.stat().st_nlink > 1, "this is about links"
    cached = [path.read_bytes() for path in (project.root / ".dvc" / "cache").rglob("*") if path.is_file()]
    first, second = b"path,action,value\nblue/00.png,relabel,red\n", b"blue/01.png,relabel,red\n"
    assert first in cached
    assert first + second in cached
    assert project.stage("get_data", "correct", "--undo").returncode == 0
    assert not (project.paths.data / CORRECTIONS).exists()
    assert "Data and pipelines are up to date" in project.dvc("status", "data.dvc")
