"""predict: the numbers of evaluate for files, folders and patterns; what it skips and what it refuses."""

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from stages import evaluate, predict
from tests.helpers import finished, tars
from thaw.artifacts import PROJECT, Paths, read_json, write_json
from thaw.data import files
from thaw.models.portable import Model
from thaw.runs import publishing


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """A finished pipeline, with predictions that its model has really made."""
    found = finished.pipeline(tmp_path_factory.mktemp("finished"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publishing, "publish", lambda *_: None)
        evaluate.run(found, finished.EVALUATE, finished.SEED)
    return found


def call(paths: Paths, *arguments: str | Path) -> None:
    predict.main([*map(str, arguments), "--model", str(paths.finished)])


def test_answers_are_in_the_order_of_the_files(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    files = [paths.data / "class_1" / "004.png", paths.data / "class_0" / "003.png"]
    call(paths, *files, "--top", "1")
    lines = capsys.readouterr().out.splitlines()
    answers = Model(paths.finished).answer(files)
    expected = [f"{file}  {one.label} {one.probability:.1%}" for file, one in zip(files, answers, strict=True)]
    assert lines == expected


@pytest.mark.parametrize("pictures", [1, 2000])
def test_where_nobody_reads_the_answers_it_ends_in_silence(paths: Paths, pictures: int) -> None:
    """As in ``predict … | head``; many answers are written before the end, few at it."""
    file, model = str(paths.data / "class_1" / "004.png"), str(paths.finished)
    code = f"from stages import predict; predict.main([*[{file!r}] * {pictures}, '--model', {model!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as command:
        assert command.stdout is not None
        assert command.stderr is not None
        command.stdout.close()
        assert [line for line in command.stderr if not line.startswith(b"note: ")] == []


def test_a_table_has_all_probabilities(paths: Paths, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "answers.csv"
    call(paths, paths.data, "--csv", out)
    with out.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [*rows[0]] == ["path", "label", "probability", "unsure", "cat", "dog"]
    assert [row["path"] for row in rows] == [str(file) for file in sorted(paths.data.rglob("*.png"))]
    for row in rows:
        values = {name: float(row[name]) for name in ("cat", "dog")}
        assert row["label"] == max(values, key=values.__getitem__)
        assert float(row["probability"]) == max(values.values())
    assert capsys.readouterr().out.startswith("predict: 120 pictures in ")


def test_what_the_model_is_not_sure_of_is_said(
    paths: Paths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, pictures = tmp_path / "model", sorted((paths.data / "class_0").iterdir())[:20]
    shutil.copytree(paths.finished, model)
    sure = sorted(answer.probability for answer in Model(model).answer(pictures))
    facts = read_json(model / "model.json")
    write_json(model / "model.json", facts | {"threshold": (sure[7] + sure[8]) / 2})
    predict.main([*map(str, pictures), "--model", str(model)])
    lines = capsys.readouterr().out.splitlines()
    assert sum("  unsure:  " in line for line in lines) == 8
    predict.main([*map(str, pictures), "--model", str(model), "--csv", str(tmp_path / "answers.csv")])
    with (tmp_path / "answers.csv").open(newline="", encoding="utf-8") as file:
        said = {row["path"]: row["unsure"] for row in csv.DictReader(file)}
    assert [bool(said[str(picture)]) for picture in pictures] == ["unsure:" in line for line in lines]


def test_why_a_model_never_says_that_it_is_unsure_is_said_once(
    paths: Paths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where validation images could not say when; where they say always sure, there is nothing to explain."""
    model, pictures = tmp_path / "model", sorted((paths.data / "class_0").iterdir())[:3]
    shutil.copytree(paths.finished, model)
    facts = read_json(model / "model.json")
    assert facts["threshold"] is None, "30 validation images are too few for 98%"
    assert "It never says that it is unsure" in (model / "README.md").read_text(encoding="utf-8")
    for threshold, times in ((None, 1), (0.0, 0), (0.9, 0)):
        write_json(model / "model.json", facts | {"threshold": threshold})
        predict.main([*map(str, pictures), "--model", str(model)])
        out, err = capsys.readouterr()
        assert err.count("note: this model never says 'unsure': its validation images were too few") == times
        assert out.count("\n") == 3


def test_folders_patterns_and_files_are_found_once(paths: Paths) -> None:
    one = paths.data / "class_0" / "003.png"
    found = files.find_pictures([str(one), str(paths.data / "class_0"), str(paths.data / "*" / "00[0-4].png")])
    assert found[0] == one
    assert len(found) == len({*found}) == 60 + 5


def test_pictures_in_shards_have_the_answers_of_files(
    paths: Paths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder of shards, a tar, and a picture in one; what is broken in a tar is said."""
    call(paths, paths.data / "class_0")
    answers = [line.partition("  ")[2] for line in capsys.readouterr().out.splitlines()]
    packed = tars.shards(paths.data / "class_0", tmp_path / "packed", 1)
    shard = packed / "shard-000000.tar"
    for named in ([packed], [shard], [shard / "000.png"]):
        call(paths, *named)
        out, err = capsys.readouterr()
        lines = out.splitlines()
        assert lines[0].startswith(f"{shard / '000.png'}  ")
        assert [line.partition("  ")[2] for line in lines] == answers[: len(lines)]
        assert "broken" not in err
    assert len(answers) == 60
    shard.write_bytes(shard.read_bytes()[:2000])
    call(paths, packed)
    assert f"note: {shard}: a broken shard: " in capsys.readouterr().err


def test_what_is_no_picture_is_named_and_skipped(
    paths: Paths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    (tmp_path / "notes.txt").write_text("no picture, and not in a folder's pictures", encoding="utf-8")
    Image.new("RGB", (9, 9)).save(tmp_path / "good.png")
    call(paths, tmp_path)
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    assert "good.png" in out
    assert f"skipped {tmp_path / 'broken.jpg'}: undecodable" in err or "not an image" in err
    assert "notes.txt" not in err


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nowhere.jpg", "expected a picture, a folder of them or a pattern, found nothing at .*nowhere.jpg"),
        ("broken.jpg", "expected pictures .* found none in 1 files"),
    ],
)
def test_nothing_to_look_at_is_an_error(paths: Paths, tmp_path: Path, name: str, sentence: str) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no")
    out = tmp_path / "answers.csv"
    with pytest.raises(SystemExit, match=f"error: {sentence}"):
        call(paths, tmp_path / name, "--csv", out)
    assert not out.exists()


def test_without_a_finished_model_the_next_step_is_said(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="error: expected a finished model .*run 'dvc repro'"):
        predict.main([__file__, "--model", str(tmp_path)])


def test_needs_neither_tensorflow_nor_the_training_data(paths: Paths, tmp_path: Path) -> None:
    shutil.copytree(paths.finished, tmp_path / "model")
    shutil.copy(paths.data / "class_0" / "003.png", tmp_path / "photo.png")
    code = f"""
import sys
from stages import predict
predict.main([{str(tmp_path / "photo.png")!r}, "--model", {str(tmp_path / "model")!r}])
heavy = {{"tensorflow", "keras", "mlflow", "sklearn", "matplotlib"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=True)
