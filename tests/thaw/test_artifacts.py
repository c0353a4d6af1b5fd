"""Paths and atomic writing, and the small files that stages hand to each other."""

import math
import os
from pathlib import Path

import numpy as np
import pytest

from thaw import artifacts
from thaw.artifacts import Paths, atomic, fingerprint, read_json, rename, write_json, write_text
from thaw.config.schema import Evaluate
from thaw.data.manifest import Record
from thaw.errors import UserError
from thaw.learning import curves
from thaw.learning.examples import examples, inputs, labels
from thaw.networks import outputs
from thaw.networks.outputs import Saved

RECORDS = [
    Record("a/1.png", "a", "train", "x", 1, 1, ""),
    Record("b/ü, 2.png", "b", "test", "y", 1, 1, ""),
    Record("b/3.png", "b", "val", "z", 1, 1, ""),
]


def test_a_stage_s_folder_appears_when_the_stage_succeeds(tmp_path: Path) -> None:
    paths = Paths(root=tmp_path)
    evaluate = Evaluate(confidence=0.9, resamples=100, keep_best_of=["head"], splits=0, sure_enough=0.98)
    with paths.stage("evaluate", evaluate=evaluate, seed=3) as out:
        (out / "metrics.json").write_text("{}")
        assert not (tmp_path / "evaluate").exists()
    assert sorted(path.name for path in (tmp_path / "evaluate").iterdir()) == ["config.json", "metrics.json"]
    assert read_json(paths.config("evaluate")) == {"evaluate": evaluate.model_dump(), "seed": 3}
    assert [path.name for path in tmp_path.iterdir()] == ["evaluate"]


def test_a_stage_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    paths = Paths(root=tmp_path)
    with paths.stage("prepare", seed=0):
        pass
    with pytest.raises(FileNotFoundError), paths.stage("prepare", seed=1) as out:
        (out / "manifest.csv").write_bytes((tmp_path / "missing").read_bytes())
    assert read_json(paths.config("prepare")) == {"seed": 0}
    assert [path.name for path in tmp_path.iterdir()] == ["prepare"]


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic(tmp_path / "new" / "file.txt") as partial:
        partial.write_bytes((tmp_path / "missing").read_bytes())
    assert list((tmp_path / "new").iterdir()) == []


def test_a_text_has_the_bytes_that_it_has_everywhere(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "ü →\n−1\n")
    assert (tmp_path / "a.txt").read_bytes() == "ü →\n−1\n".encode()


@pytest.mark.parametrize(("refusals", "pauses", "done"), [(0, 0, True), (2, 3, True), (3, 2, False), (1, 0, False)])
def test_a_name_that_is_refused_for_a_moment_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusals: int, pauses: int, done: bool
) -> None:
    """As Windows does while a virus scanner looks at a new file; elsewhere, nothing is tried again."""
    replace, left = Path.replace, [None] * refusals

    def refuse(self: Path, target: Path) -> Path:
        if left:
            left.pop()
            raise PermissionError(13, "Access is denied")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    monkeypatch.setattr(artifacts, "PAUSES", (0.0,) * pauses)
    source, target = tmp_path / "a", tmp_path / "b"
    source.mkdir()
    if done:
        rename(source, target)
    else:
        with pytest.raises(PermissionError):
            rename(source, target)
    assert (target.exists(), source.exists()) == (done, not done)


def test_json_that_no_reader_understands_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"accuracy": math.nan})
    assert list(tmp_path.iterdir()) == []


def test_a_fingerprint_knows_contents_and_values_apart(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("same")
    (tmp_path / "b").write_text("same")
    assert fingerprint(tmp_path / "a", 1) == fingerprint(tmp_path / "b", 1)
    assert len({fingerprint(1, 2), fingerprint(12), fingerprint("1", "2"), fingerprint("12")}) == 4


def test_the_workspace_is_the_project_also_from_inside_an_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "PROJECT", Path("/home/me/birds"))
    assert artifacts.workspace() == Path("/home/me/birds")
    monkeypatch.setattr(artifacts, "PROJECT", Path("/home/me/birds/.dvc/tmp/exps/tmpabc"))
    assert artifacts.workspace() == Path("/home/me/birds")


def test_a_history_comes_back_with_its_gaps(tmp_path: Path) -> None:
    curve = [curves.row(0, (math.nan, math.nan), (0.5, 0.25)), curves.row(1, (0.1, 0.9), (0.4, 0.75))]
    curves.write(tmp_path / "h.csv", curve)
    np.testing.assert_equal(curves.read(tmp_path / "h.csv"), curve)


def test_examples_are_the_rows_of_their_split(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(6, dtype=np.float32).reshape(3, 2, 1))
    source = Saved(tmp_path / "x.npy")
    found = examples(RECORDS, ["a", "b"], source, "val")
    assert (source.views, source.shape) == (2, (1,))
    assert found.take().tolist() == [[4]]
    assert found.take(view=1).tolist() == [[5]]
    assert found.y.tolist() == [1]
    assert inputs(RECORDS, source, "val", "test").take().tolist() == [[2], [4]]
    assert labels(RECORDS, ["a", "b"]).tolist() == [0, 1, 1]


@pytest.mark.parametrize("views", [1, 3])
def test_a_large_file_gives_the_rows_that_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, views: int
) -> None:
    """It is read instead of mapped: in one go, or row by row."""
    values = np.random.default_rng(0).normal(size=(50, views, 2, 3)).astype(np.float32)
    np.save(tmp_path / "x.npy", values)
    monkeypatch.setattr(outputs, "MAPPED", 0)
    monkeypatch.setattr(outputs, "AT_ONCE", 100)
    source = Saved(tmp_path / "x.npy")
    for rows in ([], [7], [49, 0, 7, 7], range(20, 40), range(0, 50, 9)):
        which = np.array(rows, np.int64)
        for view in range(views):
            np.testing.assert_array_equal(source.take(which, view), values[which, view])


def test_a_large_file_that_is_cut_off_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", np.zeros((50, 1, 100), np.float32))
    monkeypatch.setattr(outputs, "MAPPED", 0)
    source = Saved(tmp_path / "x.npy")
    os.truncate(tmp_path / "x.npy", 5000)
    with pytest.raises(UserError, match="^expected .*x.npy as it was written, found it cut off; run"):
        source.take(np.arange(50), 0)
