"""A feature store that machines share: each computes what no other has, and all have the same."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest

from tests.helpers import options
from tests.helpers.project import checkout, squares
from tests.helpers.servers import Bucket
from tests.thaw.networks.conftest import plain, records
from thaw.artifacts import cache
from thaw.config.schema import Augment, Backbone
from thaw.data import objects
from thaw.errors import UserError
from thaw.networks import engine, features, sharing
from thaw.networks.backbones import FrozenNetwork
from thaw.networks.features import Store, extract, frozen
from thaw.networks.views import Wanted, of

pytestmark = pytest.mark.usefixtures("built_once")
NONE = Augment.model_validate(options.AUGMENT)
Move = Callable[[str], None]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket: Bucket) -> Move:
    """Goes to another machine: one with a cache of its own. All share a store; a shard of it has two images."""
    monkeypatch.setenv("THAW_FEATURES", f"{bucket.url}/features")
    monkeypatch.setattr(features, "SHARD_BYTES", 4 * 1280 * 2)
    monkeypatch.setattr(engine, "BATCH", 2)
    return lambda name: monkeypatch.setenv("THAW_CACHE", str(tmp_path / name))


def _wanted(count: int = 6) -> Wanted:
    return of(records(count), NONE, 0)


def test_what_one_machine_has_computed_another_has_to_the_byte(
    machine: Move, toy: Backbone, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = tmp_path / "ours.npy", tmp_path / "theirs.npy"
    machine("a")
    assert extract(plain(toy), _wanted(), data, ours) == 6
    machine("b")
    assert extract(plain(toy), _wanted(), data, theirs) == 0
    assert ours.read_bytes() == theirs.read_bytes()
    assert f"bottleneck features: 6 from {sharing.place()}\n" in capsys.readouterr().out
    assert extract(plain(toy), _wanted(), data, theirs) == 0, "they are its own now"
    assert "from" not in capsys.readouterr().out


def test_only_what_nobody_has_is_computed_and_only_what_is_wanted_is_copied(
    machine: Move, toy: Backbone, data: Path, tmp_path: Path, bucket: Bucket
) -> None:
    machine("a")
    assert extract(plain(toy), _wanted(4), data, tmp_path / "x.npy") == 4
    machine("b")
    before = Counter(bucket.requests("GET"))
    assert extract(plain(toy), _wanted(6)[2:], data, tmp_path / "x.npy") == 2
    arrays = [path for path in Counter(bucket.requests("GET")) - before if path.endswith(".npy")]
    assert len(arrays) == 1, "of two shards one has what is wanted"
    machine("a")
    assert extract(plain(toy), _wanted(6), data, tmp_path / "x.npy") == 0, "the other machine has done the rest"


def test_what_lies_below_fine_tuning_is_shared_as_well(machine: Move, toy: Backbone, data: Path) -> None:
    network = FrozenNetwork(plain(toy))
    rows = np.arange(6)
    machine("a")
    ours = frozen(network, 0, _wanted(), data).take(rows, 0)
    machine("b")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "start", None)  # nothing is computed
        theirs = frozen(network, 0, _wanted(), data).take(rows, 0)
    np.testing.assert_array_equal(ours, theirs)


def test_what_was_computed_before_is_shared_by_the_next_run(
    machine: Move, toy: Backbone, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine("a")
    with monkeypatch.context() as patch:
        patch.delenv("THAW_FEATURES")
        extract(plain(toy), _wanted(), data, tmp_path / "x.npy")
    assert not objects.listed(sharing.place())
    assert extract(plain(toy), _wanted(), data, tmp_path / "x.npy") == 0
    machine("b")
    assert extract(plain(toy), _wanted(), data, tmp_path / "x.npy") == 0


def test_whoever_is_killed_while_sharing_leaves_no_lie(
    machine: Move, toy: Backbone, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = objects.write

    def until_keys(file: Path, url: str) -> None:
        if file.suffix == ".keys":
            raise KeyboardInterrupt
        write(file, url)

    machine("a")
    with monkeypatch.context() as patch:
        patch.setattr(objects, "write", until_keys)
        with pytest.raises(KeyboardInterrupt):
            extract(plain(toy), _wanted(), data, tmp_path / "x.npy")
    machine("b")
    assert extract(plain(toy), _wanted(4), data, tmp_path / "x.npy") == 4, "arrays without keys are of nothing"
    machine("a")
    assert extract(plain(toy), _wanted(), data, tmp_path / "x.npy") == 0, "and what is here is not lost"


def test_no_more_is_copied_than_has_room(machine: Move, bucket: Bucket, tmp_path: Path) -> None:
    folder = tmp_path / "ours" / "network"
    ours, wanted = Store(folder, "<f4"), _wanted(2)
    ours.add([image[0].key for image in wanted], np.ones((2, 3), np.float32))
    (folder / features.NAME).write_text("a network\n", encoding="utf-8")
    ours.push()
    theirs = Store(tmp_path / "theirs" / "network", "<f4")
    assert theirs.pull(wanted, most=100) == 0
    assert theirs.pull(wanted, most=10_000) == 2
    assert (theirs.take([wanted[0][0].key]) == 1).all()
    assert f"network/{features.NAME}" in objects.listed(sharing.place()), "so people see what it is of"


def test_names_that_are_no_shards_are_left_alone(machine: Move, bucket: Bucket, tmp_path: Path) -> None:
    (made := tmp_path / "made").mkdir()
    for name in ("ab.keys", "notes.txt", "x y.keys"):  # the first has no array
        (made / name).write_text(_wanted(1)[0][0].key, encoding="utf-8")
    bucket.put(made, "features/network")
    assert Store(tmp_path / "ours" / "network", "<f4").pull(_wanted(1), most=10_000) == 0


def test_a_path_is_no_url(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("THAW_FEATURES", str(tmp_path))
    with pytest.raises(UserError, match="THAW_FEATURES: expected the URL of a store.*THAW_CACHE"):
        sharing.place()


def test_a_store_that_takes_nothing_is_said_and_loses_nothing(
    machine: Move,
    toy: Backbone,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    nowhere = f"{sharing.place().removesuffix('/features')}-nowhere"
    machine("a")
    with monkeypatch.context() as patch:
        listed = objects.listed
        patch.setattr(objects, "listed", lambda url: {} if url.startswith(nowhere) else listed(url))
        patch.setenv("THAW_FEATURES", nowhere)
        assert extract(plain(toy), _wanted(), data, tmp_path / "x.npy") == 6
    said = f"bottleneck features: not shared: expected to write {nowhere}/.*, found: .*bucket.*; check the URL"
    assert re.search(said, capsys.readouterr().out)
    assert len([*cache().glob("features/*/*.keys")]) == 3
    assert extract(plain(toy), _wanted(), data, tmp_path / "x.npy") == 0


def test_a_store_that_is_asked_and_does_not_answer_ends_it_before_hours_of_work(
    machine: Move, toy: Backbone, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine("a")
    extract(plain(toy), _wanted(), data, tmp_path / "x.npy")

    def unreachable(url: str) -> None:
        raise UserError(f"expected to read {url}, found: no route to host")

    monkeypatch.setattr(objects, "listed", unreachable)
    assert extract(plain(toy), _wanted(), data, tmp_path / "x.npy") == 0, "whoever has all asks for nothing"
    machine("b")
    monkeypatch.setattr(engine, "start", None)  # nothing is computed
    with pytest.raises(UserError, match="no route to host"):
        extract(plain(toy), _wanted(), data, tmp_path / "x.npy")


def test_what_others_have_not_finished_is_left_alone(
    machine: Move, toy: Backbone, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files without a final name: of another process, or of one that was killed."""
    machine("a")
    extract(plain(toy), _wanted(4), data, tmp_path / "x.npy")
    (folder,) = cache().glob("features/*")
    for name in (".0123456789abcdef.abcd.keys", f".0123456789abcdef.{features.NAME}"):
        (folder / name).write_text(_wanted(6)[5][0].key, encoding="utf-8")
    assert extract(plain(toy), _wanted(), data, tmp_path / "x.npy") == 2
    assert "not shared" not in capsys.readouterr().out
    assert not [name for name in objects.listed(sharing.place()) if "/." in name]


def test_what_changes_or_vanishes_while_it_is_copied_is_as_if_it_had_not_been_there(
    machine: Move, toy: Backbone, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine("a")
    extract(plain(toy), _wanted(), data, tmp_path / "x.npy")
    listed = objects.listed

    def before(url: str) -> dict[str, objects.Object]:
        """As the store was when another machine had not yet replaced an array, nor a rule deleted one and keys."""
        there = listed(url)
        arrays = sorted(name for name in there if name.endswith(".npy"))
        for name, version in zip([*arrays[:2], arrays[2].replace(".npy", ".keys")], ["other", "", ""], strict=True):
            one = there[name]
            there[name] = replace(one, version=version) if version else replace(one, url=f"{one.url}.gone")
        return there

    machine("b")
    monkeypatch.setattr(objects, "listed", before)
    assert extract(plain(toy), _wanted(), data, tmp_path / "y.npy") == 6
    assert (tmp_path / "x.npy").read_bytes() == (tmp_path / "y.npy").read_bytes()


def test_an_array_that_is_gone_is_shared_anew(machine: Move, toy: Backbone, data: Path, tmp_path: Path) -> None:
    machine("a")
    extract(plain(toy), _wanted(), data, tmp_path / "x.npy")
    lost = next(one for name, one in objects.listed(sharing.place()).items() if name.endswith(".npy"))
    fsspec.filesystem("s3", use_listings_cache=False).rm(lost.url)
    extract(plain(toy), _wanted(), data, tmp_path / "x.npy")
    machine("b")
    assert extract(plain(toy), _wanted(), data, tmp_path / "x.npy") == 0


def test_what_a_machine_has_stays_what_it_is(machine: Move, tmp_path: Path) -> None:
    """Another kind of machine has computed some of the same images, and others."""
    wanted = _wanted(4)
    keys = [image[0].key for image in wanted]
    theirs, ours = (Store(tmp_path / name / "network", "<f4") for name in ("theirs", "ours"))
    theirs.add(keys[1:], np.full((3, 2), 2))
    theirs.push()
    ours.add(keys[:2], np.full((2, 2), 1))
    assert ours.pull(wanted, most=10_000) == 2
    for store in (ours, Store(tmp_path / "ours" / "network", "<f4")):
        assert store.take(keys)[:, 0].tolist() == [1, 1, 2, 2]


@pytest.mark.slow
def test_a_colleague_s_stages_find_everything(bucket: Bucket, tmp_path: Path) -> None:
    """Extraction, and what lies below fine-tuning, in two checkouts that have nothing in common but the store."""
    outputs = []
    for name in ("ours", "theirs"):
        project = checkout(tmp_path / name / "project")
        squares(project.root / "data", 20)
        variables = {"THAW_CACHE": str(tmp_path / name / "cache"), "THAW_FEATURES": f"{bucket.url}/features"}
        for stage in ("prepare", "extract_features", "audit", "train_head"):
            done = project.stage(stage, **variables)
            assert done.returncode == 0, done.stderr
            outputs += [done.stdout] if stage == "extract_features" else []
        short = ("finetune=last_3_blocks", "finetune.epochs=1")
        done = project.stage("finetune", *short, **variables)
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    assert "60 went through the network" in outputs[0]
    assert f"bottleneck features: 60 from {bucket.url}/features" in outputs[2]
    assert "0 went through the network" in outputs[2]
    ours, theirs = (tmp_path / name / "project" / "artifacts" for name in ("ours", "theirs"))
    for file in ("extract_features/features.npy", "finetune/predictions.npy"):
        assert (ours / file).read_bytes() == (theirs / file).read_bytes()
