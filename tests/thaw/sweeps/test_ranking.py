"""What came of a sweep, in order."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import finished
from thaw.artifacts import Paths, write_json
from thaw.data import manifest
from thaw.evidence import significance
from thaw.learning import predictions
from thaw.sweeps import ranking
from thaw.sweeps.ranking import Outcome, Ranked, Record


def rated(folder: Path, name: str, accuracy: float, sure: float = 0.9, seed: int = 0, per_class: int = 60) -> Outcome:
    """Fabricate a job that gets a share of the validation images right, more or less surely."""
    paths = finished.pipeline(folder / f"{name}-{seed}", per_class=per_class)
    found = predictions.read(paths.predictions("finetune"))
    probabilities = np.array(found.probabilities)
    for number, row in enumerate(row for row, split in enumerate(found.splits) if split == "val"):
        label = int(found.paths[row].startswith("class_1"))
        right = number < accuracy * found.splits.count("val")
        probabilities[row] = [1 - sure, sure] if label == right else [sure, 1 - sure]
    records = [one for one in manifest.read(paths.manifest) if one.split != "train"]
    predictions.write(paths.predictions("finetune"), ["cat", "dog"], records, probabilities)
    write_json(paths.root / "evaluate" / "figures.json", {"kept": "finetuned"})
    write_json(paths.root / "result.json", {"config": {"name": name, "seed": seed}})
    return Record(int(name), {"name": name, "seed": str(seed)}, f"{name}-{seed}"), paths


def test_the_ranking_is_by_validation_accuracy_then_by_loss(tmp_path: Path) -> None:
    jobs = [rated(tmp_path, "0", 0.5, 0.9), rated(tmp_path, "1", 0.8, 0.6), rated(tmp_path, "2", 0.8, 0.7)]
    found = ranking.ranked([*jobs, (Record(3, {}, reason="failed"), Paths(root=tmp_path))])
    assert [one.records[0].number for one in found] == [2, 1, 0]
    assert [one.accuracy for one in found] == [0.8, 0.8, 0.5]
    assert found[0].loss < found[1].loss


def test_seeds_are_repetitions_of_one_configuration(tmp_path: Path) -> None:
    shares = {("0", 0): 0.5, ("0", 1): 0.9, ("1", 0): 0.8, ("1", 1): 0.8}
    found = ranking.ranked([rated(tmp_path, name, share, seed=seed) for (name, seed), share in shares.items()])
    assert [one.figure for one in found] == ["80.0% ± 0.0", "70.0% ± 28.3"]
    assert ranking.shown(found, ["name", "seed"]) == ["name"]


def test_what_lacks_a_seed_is_not_ranked(tmp_path: Path) -> None:
    jobs = [rated(tmp_path, "0", 0.9), rated(tmp_path, "1", 0.5), rated(tmp_path, "1", 0.5, seed=1)]
    assert [one.records[0].number for one in ranking.ranked(jobs)] == [1]


def test_a_job_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    job = rated(tmp_path, "0", 0.9)
    assert len(ranking.ranked([job, job])[0].records) == 1


def test_different_splits_are_said(tmp_path: Path) -> None:
    jobs = [rated(tmp_path, "0", 0.9), rated(tmp_path, "1", 0.5)]
    said = "The jobs differ in the split of the data"
    assert said not in ranking.summary(ranking.ranked(jobs), jobs, ["name"], [])
    prepared = jobs[0][1].root / "prepare"
    prepared.rename(prepared.with_name("other"))
    prepared.symlink_to("other")
    assert said in ranking.summary(ranking.ranked(jobs), jobs, ["name"], [])


def test_so_they_are_where_the_split_was_copied(tmp_path: Path) -> None:
    """Windows lets only some users make links."""
    jobs = [rated(tmp_path, "0", 0.9), rated(tmp_path, "1", 0.5)]
    records = manifest.read(jobs[0][1].manifest)
    manifest.write(jobs[0][1].manifest, records[::-1])
    assert "differ in the split" in ranking.summary(ranking.ranked(jobs), jobs, ["name"], [])


def probed(folder: Path, shares: Sequence[float], group: int = 1, per_class: int = 60) -> tuple[list[list[str]], str]:
    """The table and the summary of backbones that get shares of the images right; so many images are one group."""
    jobs = []
    for number, share in enumerate(shares):
        record, paths = rated(folder, str(number), share, per_class=per_class)
        (paths.root / "probe").mkdir()
        found = predictions.read(paths.predictions("finetune"))
        val = [row for row, split in enumerate(found.splits) if split == "val"]
        records = manifest.read(paths.manifest)
        known = [one for one in records if one.split == "val"]
        of = {one.path: f"g{place // group}" for place, one in enumerate(known) if group > 1}
        manifest.write(paths.manifest, [dataclasses.replace(one, group=of.get(one.path, "")) for one in records])
        predictions.write(paths.predictions("probe"), ["cat", "dog"], known, found.probabilities[val])
        jobs.append((Record(record.number, record.values, record.job, rank="backbone"), paths))
    ranked = ranking.ranked(jobs, "backbone")
    return ranking.table(ranked, ["name"]), ranking.summary(ranked, jobs, ["name"], [])


@pytest.mark.parametrize(("other", "p"), [(0.9, "1"), (0.5, "0.00049")])
def test_backbones_are_compared_on_the_very_same_images(tmp_path: Path, other: float, p: str) -> None:
    rows, said = probed(tmp_path, [0.9, other])
    assert rows[0] == ["rank", "name", "cross-validated", "interval", "p", "loss", "job"]
    assert rows[1][4] == ""
    assert rows[2][4] == p
    assert "on 30 images; the test images" in said


def width(interval: str) -> float:
    low, high = (float(end.rstrip("%")) for end in interval.split(" to "))
    return high - low


def test_of_images_in_groups_the_groups_are_counted(tmp_path: Path) -> None:
    """100 images; groups of four are alike, and 25 images would tell as much."""
    (_, alone, other), _ = probed(tmp_path / "alone", [0.8, 0.6], per_class=200)
    (_, grouped, others), said = probed(tmp_path / "grouped", [0.8, 0.6], group=4, per_class=200)
    assert alone[2] == grouped[2] == "80.0%"
    low, high = significance.wilson(0.8, 25, ranking.CONFIDENCE)
    assert grouped[3] == f"{low:.1%} to {high:.1%}"
    assert width(grouped[3]) / width(alone[3]) == pytest.approx(math.sqrt(4), rel=0.05)
    assert (other[4], others[4]) == (f"{2 / 2**20:.2g}", f"{2 / 2**5:.2g}")  # 20 images, or 5 groups, all one way
    assert "on 100 images in 25 groups; the test images" in said


def timed(*found: tuple[float, float]) -> list[Ranked]:
    """Backbones of some accuracies and milliseconds, the best one first."""
    return [
        Ranked([Record(place, {"name": f"{place}"}, rank="backbone")], [], [accuracy], 0.1, "head", [], milliseconds)
        for place, (accuracy, milliseconds) in enumerate(found)
    ]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([(0.9, 50), (0.85, 60), (0.8, 5)], ["2", "0"]),
        ([(0.9, 5), (0.8, 5), (0.7, 4)], ["2", "0"]),
        ([(0.9, 5), (0.9, 5), (0.9, 6)], ["0"]),
        ([(0.9, 1), (0.8, 2), (0.7, 3)], ["0"]),
        ([(0.9, 0), (0.8, 2)], ["1"]),
    ],
    ids=["steps", "equally quick", "equally good", "one is better in both", "one was not measured"],
)
def test_in_front_is_what_no_other_is_both_quicker_and_more_accurate_than(
    found: list[tuple[float, float]], expected: list[str]
) -> None:
    assert [one.named(["name"]) for one in ranking.front(timed(*found))] == expected


@pytest.mark.parametrize(
    ("milliseconds", "said"), [(0.0, ""), (0.05123, "0.0512"), (11.26, "11.3"), (153.4, "153"), (1234.0, "1230")]
)
def test_milliseconds_have_three_digits(milliseconds: float, said: str) -> None:
    assert timed((0.9, milliseconds))[0].cost == said
