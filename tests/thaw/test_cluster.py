"""Which machines of a Ray cluster take part, and as what. The work itself: tests/stages/test_cluster.py."""

from pathlib import Path
from typing import Any

import pytest

from thaw.cluster import Worker, batches, compare, everywhere, seats
from thaw.errors import UserError

MINE = {"processor": "x86_64 with AVX2", "threads": 8, "python": "3.11.7", "openvino": "2026.4.1"}


def node(name: str, cpus: float | None, gpus: int = 0, alive: bool = True) -> dict[str, Any]:
    """One of Ray's machines, as it describes them."""
    has = {"memory": 1.0} | ({"CPU": cpus} if cpus else {}) | ({"GPU": gpus} if gpus else {})
    return {"NodeID": name, "NodeManagerAddress": f"10.0.0.{name}", "Alive": alive, "Resources": has}


def test_each_machine_that_lives_and_has_cores_is_a_place_with_all_of_them() -> None:
    found = seats([node("2", 16), node("1", 8, gpus=2), node("3", 4, alive=False), node("4", None)], gpus=False)
    assert [(seat.address, seat.cores, seat.gpus) for seat in found] == [("10.0.0.1", 8, 0), ("10.0.0.2", 16, 0)]


def test_each_gpu_is_a_place_with_its_share_of_the_cores() -> None:
    found = seats([node("1", 7, gpus=2), node("2", 16)], gpus=True)
    assert [(seat.address, seat.number, seat.cores, seat.gpus) for seat in found] == [
        ("10.0.0.1", 0, 3, 1),
        ("10.0.0.1", 1, 3, 1),
        ("10.0.0.2", 0, 16, 0),
    ]


def test_a_machine_of_another_size_computes_the_same() -> None:
    assert compare(MINE, MINE | {"threads": 64}, "10.0.0.2") == ""


def test_another_processor_is_said() -> None:
    assert compare(MINE, MINE | {"processor": "x86_64 with AMX"}, "10.0.0.2").startswith(
        "10.0.0.2 is x86_64 with AMX, "
    )


@pytest.mark.parametrize("theirs", ["2026.5.0", None])
def test_another_version_is_refused(theirs: str | None) -> None:
    other = {**MINE, "openvino": theirs} if theirs else {key: MINE[key] for key in MINE if key != "openvino"}
    with pytest.raises(UserError, match=r"^expected openvino 2026.4.1 on every machine .* on 10.0.0.2; install"):
        compare(MINE, other, "10.0.0.2")


def test_a_machine_without_the_images_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=f"^expected {tmp_path}/data on every machine of the Ray cluster, found no such"
    ):
        Worker().start(lambda: len, tmp_path / "data")


def test_batches_are_all_items_in_their_order() -> None:
    found = batches(range(1000))
    assert [len(some) for some in found] == [256, 256, 256, 232]
    assert [one for some in found for one in some] == [*range(1000)]


def test_without_a_cluster_the_work_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "")
    assert everywhere(abs, [-1, 2], "work", Path()) == [1, 2]
