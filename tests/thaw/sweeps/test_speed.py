"""What an image costs: the network alone, after it has warmed up, once for each network."""

from typing import Any

import pytest

from thaw.artifacts import cache
from thaw.config.schema import Backbone
from thaw.networks import engine
from thaw.sweeps import speed


class Clocked:
    """An engine that takes as long as it is told, by a clock of its own; the first batch takes much longer."""

    shapes = ((4,), (2, 2, 3))
    input_size = 32
    batch = 1
    now = 0.0

    def __init__(self, *seconds: float) -> None:
        self._seconds = [100.0, *seconds]
        self.batches: list[int] = []

    def run(self, images: Any, outs: Any) -> None:
        assert [out.shape[1:] for out in outs] == [*self.shapes]
        self.batches.append(len(images))
        Clocked.now += self._seconds[min(len(self.batches), len(self._seconds)) - 1]


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> dict[int, Clocked]:
    """An engine for each size of images."""
    found: dict[int, Clocked] = {}
    monkeypatch.setattr(engine, "start", lambda network: found[network.backbone.input_size])
    monkeypatch.setattr(speed.time, "perf_counter", lambda: Clocked.now)
    return found


def test_the_median_batch_counts_and_not_the_first(toy: Backbone, engines: dict[int, Clocked]) -> None:
    engines[32] = Clocked(0.64, 0.32, 9.6)
    assert speed.milliseconds([toy]) == [pytest.approx(20)]
    assert {*engines[32].batches} == {speed.IMAGES}


def test_a_batch_of_the_engine_is_filled(toy: Backbone, engines: dict[int, Clocked]) -> None:
    engines[32] = Clocked(0.64)
    engines[32].batch = 64
    assert speed.milliseconds([toy]) == [pytest.approx(10)]
    assert {*engines[32].batches} == {64}


def test_a_quick_network_is_asked_for_a_second_and_a_slow_one_three_times(
    toy: Backbone, engines: dict[int, Clocked]
) -> None:
    engines.update({32: Clocked(0.0625), 64: Clocked(5.0)})
    assert speed.milliseconds([toy, toy.model_copy(update={"input_size": 64})]) == pytest.approx([62.5 / 32, 5000 / 32])
    assert len(engines[32].batches) == 1 + 16
    assert len(engines[64].batches) == 1 + speed.LEAST


def test_a_network_is_measured_once(toy: Backbone, engines: dict[int, Clocked]) -> None:
    engines.update({32: Clocked(0.5), 64: Clocked(1.0)})
    times = speed.milliseconds([toy, toy.model_copy(update={"input_size": 64}), toy])
    assert times[0] == times[2] < times[1]
    assert len(engines[32].batches) == 1 + speed.LEAST


@pytest.mark.slow
def test_the_feature_store_has_no_part_in_it(toy: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "SECONDS", 0.0)
    assert speed.milliseconds([toy])[0] > 0
    assert [path.name for path in cache().iterdir()] == ["engine"]
