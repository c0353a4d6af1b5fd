"""What the machine offers: a container's share of it counts."""

import os
from pathlib import Path

import pytest

from thaw import machine
from thaw.config.schema import Backbone
from thaw.machine import cores
from thaw.networks.backbones import FrozenNetwork


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 64 cores, whose control group the test writes."""
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    (tmp_path / "cpu").mkdir()
    return tmp_path


def test_without_a_limit_all_cores_count_that_the_process_is_bound_to(cgroup: Path) -> None:
    assert cores() == 64
    (cgroup / "cpu.max").write_text("max 100000\n")
    assert cores() == 64


@pytest.mark.parametrize(("quota", "count"), [("200000", 2), ("250000", 3), ("50000", 1), ("9000000", 64)])
def test_a_container_s_share_is_the_limit(cgroup: Path, quota: str, count: int) -> None:
    (cgroup / "cpu.max").write_text(f"{quota} 100000\n")
    assert cores() == count


@pytest.mark.parametrize(("quota", "count"), [("200000", 2), ("-1", 64)])
def test_so_it_is_in_control_groups_of_version_1(cgroup: Path, quota: str, count: int) -> None:
    (cgroup / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (cgroup / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert cores() == count


def test_a_worker_of_a_cluster_has_the_cores_that_it_was_given(cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THAW_CORES", "4")
    assert cores() == 4
    monkeypatch.setenv("THAW_CORES", "128")
    assert cores() == 64


@pytest.mark.parametrize(("gpu", "engine"), [(True, "tensorflow"), (False, "openvino")])
def test_auto_is_tensorflow_where_there_is_a_gpu(
    toy: Backbone, monkeypatch: pytest.MonkeyPatch, gpu: bool, engine: str
) -> None:
    monkeypatch.setattr("thaw.networks.backbones.has_gpu", lambda: gpu)
    automatic, named = (FrozenNetwork(toy.model_copy(update={"engine": name})) for name in ("auto", engine))
    assert automatic.engine == engine
    assert automatic.fingerprint == named.fingerprint, "it is the same network, and its outputs are found again"
