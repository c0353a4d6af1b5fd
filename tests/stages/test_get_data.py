"""Bringing data in, with real DVC where DVC is what matters."""

import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from stages import get_data
from tests.helpers import pictures
from thaw.artifacts import PROJECT
from thaw.data import indexing, sheets, sources, versioning
from thaw.data.layouts import Options
from thaw.errors import UserError

DIGITS = "72e131e0cd93ceeb743a1f9fa75849e9.dir"  # what the committed data.dvc says


def shell(root: Path, *command: str) -> str:
    return subprocess.run(command, cwd=root, capture_output=True, text=True, encoding="utf-8", check=True).stdout


def dvc(root: Path, *arguments: str) -> str:
    return shell(root, sys.executable, "-m", "dvc", *arguments)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def track(root: Path, folder: Path) -> None:
    """What 'dvc add' would leave in data.dvc."""
    (root / "data.dvc").write_text(f"outs:\n- md5: {versioning.fingerprint(folder)}\n  hash: md5\n  path: data\n")


def commit(root: Path) -> None:
    shell(root, "git", "add", "data.dvc")
    shell(root, "git", "commit", "-qm", "data")


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("template")
    shell(root, "git", "init", "-q")
    dvc(root, "init", "-q")
    dvc(root, "config", "core.analytics", "false")
    for key, value in (("user.name", "t"), ("user.email", "t@localhost"), ("commit.gpgsign", "false")):
        shell(root, "git", "config", key, value)
    shell(root, "git", "add", ".")
    shell(root, "git", "commit", "-qm", "start")
    return root


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Path:
    """A project under Git and DVC, without data."""
    shutil.copytree(template, tmp_path / "project")
    shutil.copy(PROJECT / "params.yaml", tmp_path / "project")
    return tmp_path / "project"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A user's photos."""
    return pictures.fill(tmp_path / "photos", {"cats": 2, "dogs & co": 2})


@pytest.fixture
def no_dvc(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Only note what would be tracked: DVC takes seconds, and most mistakes come before it."""
    calls: list[Path] = []
    monkeypatch.setattr(versioning, "_dvc_add", calls.append)
    return calls


def test_digits_are_the_same_bytes_everywhere_and_a_second_call_changes_nothing(
    root: Path, no_dvc: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    get_data.main(["digits"], root)
    data = root / "data"
    assert versioning.fingerprint(data) == DIGITS
    assert len(list(data.glob("?/*.png"))) == 1797
    with Image.open(data / "0" / "0000.png") as image:
        assert (image.mode, image.size) == ("L", (8, 8))
        assert np.asarray(image)[0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]  # of 16: 0 0 5 13 9 1 0 0
    assert "1,797 files" in capsys.readouterr().out
    assert no_dvc == [root]
    track(root, data)
    get_data.main(["digits"], root)
    assert no_dvc == [root]
    assert "holds these data already\nNext: make repro" in capsys.readouterr().out
    assert (root / "params.yaml").read_bytes() == (PROJECT / "params.yaml").read_bytes()


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (3, 200)])
def test_encoded_pngs_are_what_other_decoders_expect(shape: tuple[int, int]) -> None:
    picture = pictures.pixels(0, *shape)[..., 0]
    with Image.open(io.BytesIO(sources.encode_png(picture))) as image:
        assert np.array_equal(np.asarray(image), picture)


def test_a_folder_is_copied_without_its_hidden_files(root: Path, photos: Path, no_dvc: list[Path]) -> None:
    visible = contents(photos)
    (photos / ".DS_Store").touch()
    get_data.main(["folder", str(photos)], root)
    assert contents(root / "data") == visible
    assert no_dvc == [root]


def test_linked_originals_are_tracked_and_stay_as_they_were(root: Path, photos: Path) -> None:
    first = photos / "cats" / "000.png"
    first.chmod(0o664)
    originals = contents(photos)
    get_data.main(["folder", str(photos), "--link"], root)
    assert versioning.tracked_fingerprint(root) == versioning.fingerprint(photos)
    assert (first.stat().st_nlink, first.stat().st_mode & 0o777) == (1, 0o664)
    (root / "data" / "cats" / "000.png").unlink()
    first.write_bytes(b"changed later")  # must not reach DVC's cache
    dvc(root, "checkout", "data.dvc")
    assert contents(root / "data") == originals


def test_links_that_the_system_refuses_are_one_sentence(
    root: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows lets only some users make them."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(22, "A required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    with pytest.raises(SystemExit, match=r"error: expected to link to .*, found: A required privilege .*leave out"):
        get_data.main(["folder", str(photos), "--link"], root)
    assert not (root / "data").exists()


def test_dvc_sees_shards_and_no_images(root: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    get_data.main(["folder", str(photos), "--shards"], root)
    assert [*contents(root / "data")] == ["shard-000000.tar"]
    assert versioning.tracked_fingerprint(root) == versioning.fingerprint(root / "data")
    said = capsys.readouterr().out
    assert "packed into 1 shard\n" in said
    assert "1 files in " in said
    before = (root / "data.dvc").read_bytes()
    get_data.main(["folder", str(root / "data"), "--force"], root)
    assert (root / "data.dvc").read_bytes() == before, "shards are taken as they are"
    assert "holds these data already" in capsys.readouterr().out


def test_links_are_refused_where_dvc_would_take_over_the_originals(root: Path, photos: Path) -> None:
    (root / ".dvc" / "config").write_text("[cache]\n    type = hardlink,copy\n")
    with pytest.raises(SystemExit, match=r"error: .*leave out --link"):
        get_data.main(["folder", str(photos), "--link"], root)
    assert not (root / "data").exists()


def test_what_git_and_dvc_can_bring_back_is_replaced(
    root: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    track(root, shutil.copytree(photos, root / "data"))
    commit(root)
    other = pictures.fill(tmp_path / "other", {"x": 1, "y": 1}, start=50)
    get_data.main(["folder", str(other)], root)
    assert contents(root / "data") == contents(other)
    assert not (root / "data.backup").exists()
    assert "'git checkout data.dvc && dvc checkout data.dvc' brings them back" in capsys.readouterr().out
    shell(root, "git", "checkout", "data.dvc")
    dvc(root, "checkout", "data.dvc")
    assert contents(root / "data") == contents(photos)


def test_a_fresh_clone_gives_up_the_data_that_are_not_there(
    root: Path, photos: Path, no_dvc: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    track(root, photos / "cats")
    commit(root)
    get_data.main(["folder", str(photos)], root)
    assert contents(root / "data") == contents(photos)
    assert no_dvc == [root]
    assert "'git checkout data.dvc' goes back to it" in capsys.readouterr().out


def test_the_sample_is_not_brought_in_the_place_of_data_that_are_to_be_pulled(
    root: Path, photos: Path, no_dvc: list[Path]
) -> None:
    """A colleague's clone, before 'dvc pull': 'make repro' would bring the sample where there are no data."""
    track(root, photos)
    commit(root)
    before = (root / "data.dvc").read_bytes()
    with pytest.raises(SystemExit, match="'dvc pull' or 'dvc checkout data.dvc' brings them, --force gives them up"):
        get_data.main(["digits"], root)
    assert (root / "data.dvc").read_bytes() == before
    assert not no_dvc


@pytest.mark.parametrize("case", ["untracked", "changed since", "data.dvc not committed", "a symbolic link", "no git"])
def test_force_keeps_what_could_not_be_brought_back(
    root: Path, photos: Path, tmp_path: Path, no_dvc: list[Path], case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pictures.fill(root / "data", {"x": 1, "y": 1}, start=50)
    (root / "data.backup").mkdir()
    match case:
        case "changed since":
            track(root, data)
            commit(root)
            pictures.save(data / "x" / "new.png", 99)
        case "data.dvc not committed":
            track(root, data)
        case "a symbolic link":
            track(root, data)
            commit(root)
            data.rename(tmp_path / "elsewhere")
            data.symlink_to(tmp_path / "elsewhere")
        case "no git":
            track(root, data)
            commit(root)
            monkeypatch.setenv("PATH", "")
    before = contents(data)
    with pytest.raises(SystemExit, match="^error: expected no data in .*, or such as Git and DVC can bring back"):
        get_data.main(["folder", str(photos)], root)
    get_data.main(["folder", str(photos), "--force"], root)
    assert contents(root / "data.backup-2") == before
    assert contents(root / "data") == contents(photos)
    assert no_dvc == [root]


@pytest.mark.parametrize("source", ["folder", "table", "digits"])
def test_data_that_are_there_are_not_overwritten(root: Path, photos: Path, no_dvc: list[Path], source: str) -> None:
    data = pictures.fill(root / "data", {"x": 1, "y": 1}, start=50)
    before = contents(data)
    arguments = {"folder": ["folder", str(photos)], "table": ["folder", "nowhere.csv"], "digits": ["digits"]}[source]
    with pytest.raises(SystemExit, match=r"^error: expected no data in .*data, or such as .*, or add --force"):
        get_data.main(arguments, root)
    assert contents(data) == before
    assert not no_dvc
    assert not list(root.glob(".data*"))


def test_data_dvc_of_other_data_is_not_overwritten(root: Path, photos: Path, no_dvc: list[Path]) -> None:
    track(root, photos / "cats")
    before = (root / "data.dvc").read_text()
    with pytest.raises(SystemExit, match=r"expected no data.dvc, or such as can be brought back, found one"):
        get_data.main(["folder", str(photos)], root)
    assert (root / "data.dvc").read_text() == before
    assert not (root / "data").exists()
    get_data.main(["folder", str(photos), "--force"], root)
    assert no_dvc == [root]


def test_data_dvc_of_the_same_data_is_welcome(root: Path, photos: Path, no_dvc: list[Path]) -> None:
    track(root, photos)
    (root / "data").mkdir()  # an empty folder is no data
    get_data.main(["folder", str(photos)], root)
    assert contents(root / "data") == contents(photos)
    assert no_dvc == [root]


@pytest.mark.parametrize("text", ["", "outs: []", "outs:\n- path: data", "outs:\n- md5: 1.dir\n  path: data", "{"])
def test_a_broken_data_dvc_is_named(root: Path, photos: Path, text: str) -> None:
    (root / "data.dvc").write_text(text)
    with pytest.raises(SystemExit, match=r"expected .*data.dvc as 'dvc add' writes it"):
        get_data.main(["folder", str(photos)], root)


def test_a_project_without_dvc_is_named_first(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(SystemExit, match=r"expected a DVC project in .*, found no \.dvc folder; run 'dvc init'"):
        get_data.main(["folder", str(photos)], tmp_path)
    assert not (tmp_path / "data").exists()


def test_a_failure_of_dvc_is_passed_on_and_the_data_stay(root: Path, photos: Path) -> None:
    (root / "dvc.yaml").write_text("stages:\n  own:\n    cmd: 'true'\n    outs: [data]\n")
    with pytest.raises(SystemExit, match=r"expected 'dvc add data' to track .*data, found: .*; the data are complete"):
        get_data.main(["folder", str(photos)], root)
    assert contents(root / "data") == contents(photos)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere", "expected a folder of images, .* found nothing at .*nowhere"),
        ("photos/cats/000.png", "expected a folder of images, an archive .* or a table .*, found the file .*000.png"),
        ("photos/cats", "found none with images, and 2 images beside each other"),
    ],
)
def test_a_folder_that_prepare_would_not_understand(
    root: Path, photos: Path, path: str, message: str, no_dvc: list[Path]
) -> None:
    with pytest.raises(SystemExit, match=message):
        get_data.main(["folder", str(photos.parent / path)], root)
    assert not no_dvc
    assert not (root / "data").exists()


def test_a_table_brings_only_what_it_lists(
    root: Path, photos: Path, no_dvc: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    pictures.save(photos / "unlisted.png", 9)
    file = photos / "labels.csv"
    file.write_text(
        "group,label,path,split\n,small,cats/000.png,\ng,small,cats/001.png,valid\n,big,dogs & co/000.png,\n"
    )
    get_data.main(["folder", str(file)], root)
    assert (root / "data" / "index.csv").read_text() == (
        "path,label,split,group\ncats/000.png,small,train,\ncats/001.png,small,val,g\ndogs & co/000.png,big,train,\n"
    )
    assert set(contents(root / "data")) == {"index.csv", "cats/000.png", "cats/001.png", "dogs & co/000.png"}
    assert [entry.label for entry in indexing.scan(root / "data").entries] == ["small", "small", "big"]
    assert no_dvc == [root]
    said = capsys.readouterr().out
    assert (
        f"3 images in 2 classes\n  big         1 {'█' * 15}\n  small       2 {'█' * 30}\n  val has no images of big\n"
        in said
    )
    assert "3 looked at: 3 PNG; 8 x 6 pixels\n" in said


def test_a_dry_run_says_what_is_understood_and_copies_nothing(
    root: Path, photos: Path, tmp_path: Path, no_dvc: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for source in (photos, pack(tmp_path / "a.tgz", photos, "photos")):
        get_data.main(["folder", str(source), "--dry-run"], root)
        assert capsys.readouterr().out.startswith("4 images in 2 classes\n  cats            2 ")
        with Image.open(root / "artifacts" / "contact_sheet.png") as sheet:
            assert sheet.size == (
                sheets.LABEL + 2 * (sheets.SIDE + sheets.GAP),
                sheets.TITLE + 2 * (sheets.SIDE + sheets.GAP),
            )
    assert not (root / "data").exists()
    assert not no_dvc


def test_options_say_what_a_folder_does_not(root: Path, photos: Path, no_dvc: list[Path]) -> None:
    get_data.main(["folder", str(photos), "--label-from", r"(\d+)\.png"], root)
    assert {entry.label for entry in indexing.scan(root / "data").entries} == {"000", "001"}
    assert no_dvc == [root]


def pack(file: Path, folder: Path, name: str) -> Path:
    with tarfile.open(file, "w:gz") as tar:
        tar.add(folder, arcname=name)
    return file


@pytest.mark.parametrize("command", [["folder"], ["flowers", "--from"]])
@pytest.mark.parametrize("name", ["flower_photos", "."])
def test_an_archive_at_hand(
    root: Path, photos: Path, tmp_path: Path, no_dvc: list[Path], name: str, command: list[str]
) -> None:
    (photos / "LICENSE.txt").write_text("CC-BY")
    get_data.main([*command, str(pack(tmp_path / "a.tgz", photos, name))], root)
    (photos / "LICENSE.txt").unlink()
    assert contents(root / "data") == contents(photos)
    assert not list(root.glob(".data*"))
    assert no_dvc == [root]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda *_: None, "expected a folder of images, .* found nothing at .*a.tgz", id="missing"),
        pytest.param(lambda file, _: file.write_text("no tar"), "expected a complete archive at .*a.tgz", id="no-tar"),
        pytest.param(
            lambda file, photos: pack(file, photos / "cats", "cats"),
            "expected at least two classes in .*a.tgz, found only 'cats'",
            id="layout",
        ),
    ],
)
def test_archives_that_cannot_be_used(
    root: Path, photos: Path, tmp_path: Path, make: Callable[[Path, Path], object], message: str
) -> None:
    make(tmp_path / "a.tgz", photos)
    with pytest.raises(SystemExit, match=message):
        get_data.main(["folder", str(tmp_path / "a.tgz")], root)
    assert not (root / "data").exists()
    assert not list(root.glob(".data*"))


def test_flowers_are_downloaded_once_and_checked(
    root: Path, photos: Path, tmp_path: Path, no_dvc: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = pack(tmp_path / "published.tgz", photos, "flower_photos")
    monkeypatch.setattr(sources, "FLOWERS_URL", archive.as_uri())
    with pytest.raises(SystemExit, match=r"expected the sha256 4c54ace7.*--from FILE"):
        get_data.main(["flowers"], root)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    monkeypatch.setattr(sources, "FLOWERS_SHA256", hashlib.sha256(archive.read_bytes()).hexdigest())
    get_data.main(["flowers"], root)
    archive.unlink()
    shutil.rmtree(root / "data")
    get_data.main(["flowers"], root)
    assert contents(root / "data") == contents(photos)
    assert no_dvc == [root, root]


def test_a_failed_download_says_how_to_go_on(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "FLOWERS_URL", (tmp_path / "nowhere.tgz").as_uri())
    with pytest.raises(SystemExit, match=r"expected to download file:.*nowhere.tgz, found: .*--from FILE"):
        get_data.main(["flowers"], root)


def test_a_file_that_cannot_be_copied_is_named(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(shutil, "copyfile", refuse)
    with pytest.raises(UserError, match=r"expected to copy .*000\.png, found: Input/output error; mend or remove it"):
        sources.write_images(photos, tmp_path / "target", Options())


# What goes with the data.


def choices(root: Path) -> dict[str, str]:
    return dict(yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8")))


SAMPLE = {"dataset": "digits", "backbone": "mobilenet_v2_bundled"}


def test_the_project_chooses_what_goes_with_its_sample() -> None:
    assert choices(PROJECT).items() >= sources.GOES_WITH["digits"].items()
    assert sources.GOES_WITH["digits"] == SAMPLE


def test_photos_are_given_what_goes_with_photos(
    root: Path, photos: Path, no_dvc: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    before = (root / "params.yaml").read_text(encoding="utf-8")
    get_data.main(["folder", str(photos)], root)
    after = (root / "params.yaml").read_text(encoding="utf-8")
    assert choices(root) == choices(PROJECT) | {
        "dataset": "folder",
        "backbone": "mobilenet_v2",
    }
    assert [line for line in after.splitlines() if "#" in line] == [line for line in before.splitlines() if "#" in line]
    said = capsys.readouterr().out
    assert "params.yaml: dataset digits → folder, backbone mobilenet_v2_bundled → mobilenet_v2; " in said
    assert "'git checkout params.yaml' takes that back" in said
    assert "docs/data.md" in said
    assert said.endswith("Next: make repro\n")


def test_what_a_person_has_chosen_stays(root: Path, photos: Path, no_dvc: list[Path]) -> None:
    file = root / "params.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace("mobilenet_v2_bundled", "resnet50"), encoding="utf-8")
    get_data.main(["folder", str(listed(photos))], root)
    assert choices(root) == choices(PROJECT) | {
        "dataset": "folder",
        "backbone": "resnet50",
    }


def listed(photos: Path) -> Path:
    file = photos / "list.csv"
    rows = [f"{path.relative_to(photos).as_posix()},{path.parent.name}" for path in sorted(photos.rglob("*.png"))]
    file.write_text("\n".join(["path,label", *rows]), encoding="utf-8")
    return file


@pytest.mark.parametrize("dataset", ["folder", "mine"], ids=["the same kind", "an option of one's own"])
def test_choices_of_the_same_kind_and_of_ones_own_are_left_alone(
    root: Path, photos: Path, no_dvc: list[Path], dataset: str
) -> None:
    file = root / "params.yaml"
    file.write_text(
        file.read_text(encoding="utf-8").replace("dataset: digits", f"dataset: {dataset}"), encoding="utf-8"
    )
    before = file.read_bytes()
    get_data.main(["folder", str(photos)], root)
    assert file.read_bytes() == before


def test_back_at_the_sample_its_choices_are_back(root: Path, photos: Path, no_dvc: list[Path]) -> None:
    before = (root / "params.yaml").read_bytes()
    get_data.main(["folder", str(photos)], root)
    get_data.main(["digits", "--force"], root)
    assert (root / "params.yaml").read_bytes() == before


@pytest.mark.parametrize("text", [None, "", "[1]", "{", "\xff"])
def test_a_params_yaml_that_cannot_be_read_loses_no_data(
    root: Path, photos: Path, no_dvc: list[Path], text: str | None
) -> None:
    file = root / "params.yaml"
    file.unlink()
    if text is not None:
        file.write_bytes(text.encode("latin-1"))
    with pytest.raises(SystemExit, match="error: the data are complete, but .*restore it and set 'dataset: folder'"):
        get_data.main(["folder", str(photos)], root)
    assert contents(root / "data") == contents(photos)
