"""What fine-tuning adds over several seeds: by hand, and for whatever there is."""

import dataclasses
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t

from tests.helpers import finished
from thaw.artifacts import write_json
from thaw.data import manifest
from thaw.sweeps import picture, seeds
from thaw.sweeps.ranking import Ranked, Record
from thaw.sweeps.seeds import Seeds

SVG = "{http://www.w3.org/2000/svg}"
FOUND = Seeds(["0", "1", "2"], [0.90, 0.92, 0.94], [0.93, 0.93, 0.94], True, 0.25)


def job(folder: Path, seed: int, before: float, after: float, **figures: Any) -> Any:
    paths = finished.pipeline(folder / str(seed))
    found = {"head": {"accuracy": before}, "finetuned": {"accuracy": after}, "verdict": "no difference shown"}
    write_json(paths.root / "evaluate" / "figures.json", found | figures)
    return Record(seed, {"finetune": "auto", "seed": str(seed)}, f"job{seed}"), paths


def ranked(jobs: list[Any]) -> Ranked:
    records, paths = zip(*jobs, strict=True)
    return Ranked(records, paths, [0.9] * len(jobs), 0.5, "finetuned", ["a"] * len(jobs))


def test_the_interval_of_the_mean_difference_by_hand() -> None:
    assert FOUND.gains == pytest.approx([0.03, 0.01, 0.0])
    half = t.ppf(0.975, 2) * np.sqrt((1 / 3 + 0.25) * np.var([3, 1, 0], ddof=1)) / 100
    mean = 4 / 300
    assert FOUND.interval == pytest.approx((mean - half, mean + half))
    assert FOUND.better == 2
    assert FOUND.figures() == pytest.approx(
        {
            "before": 0.92,
            "after": 2.8 / 3,
            "gain": mean,
            "gain_low": mean - half,
            "gain_high": mean + half,
            "better": 2,
        }
    )


def test_what_is_said_and_written(tmp_path: Path) -> None:
    alone = dataclasses.replace(FOUND, after=FOUND.before, is_tuned=False)
    first, header, row, note = seeds.said(FOUND)
    assert first == "What fine-tuning adds to the best configuration, on the test images of its 3 seeds:"
    assert header.split() == ["before", "after", "difference", "95%", "interval", "better", "in"]
    assert row == "92.0% ± 2.0  93.3% ± 0.6  +1.3 ± 1.5  −3.7 to +6.4  2 of 3"
    assert "Nadeau and Bengio" in note
    assert seeds.said(alone)[2].split() == ["92.0%", "±", "2.0"]
    assert seeds.rows(FOUND) == [
        ["seed", "before", "after"],
        ["0", "0.9", "0.93"],
        ["1", "0.92", "0.93"],
        ["2", "0.94", "0.94"],
    ]
    assert [row[2] for row in seeds.rows(alone)] == ["after", "", "", ""]


def test_where_all_seeds_have_the_same_test_images_splits_do_not_overlap(tmp_path: Path) -> None:
    jobs = [job(tmp_path, 0, 0.9, 0.93), job(tmp_path, 1, 0.9, 0.92)]
    found = seeds.of(ranked(jobs))
    assert found.ratio == 0
    assert "the same test images" in seeds.said(found)[-1]
    assert (found.seeds, found.is_tuned) == (["0", "1"], True)
    records = manifest.read(jobs[1][1].manifest)
    records[0], records[2] = (
        dataclasses.replace(records[0], split="test"),
        dataclasses.replace(records[2], split="train"),
    )
    manifest.write(jobs[1][1].manifest, records)
    assert seeds.of(ranked(jobs)).ratio == pytest.approx(60 / 30)


def test_nothing_is_compared_where_nothing_was_fine_tuned(tmp_path: Path) -> None:
    jobs = [job(tmp_path, seed, 0.9, 0.9, verdict="nothing was fine-tuned") for seed in (0, 1)]
    assert seeds.of(ranked(jobs)).figures() == pytest.approx({"before": 0.9})


def test_the_picture_has_a_dot_for_each_seed() -> None:
    root = ElementTree.fromstring(picture.seeds(FOUND))
    dots = root.findall(f"{SVG}circle")
    assert [dot.findtext(f"{SVG}title") for dot in dots][:3] == ["seed 0: +3.0", "seed 1: +1.0", "seed 2: 0.0"]
    places = [float(dot.get("cx", "")) for dot in dots]
    assert places[0] > places[1] > places[2]
    box = [float(value) for value in root.get("viewBox", "").split()]
    assert all(0 < place < box[2] for place in places)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=2, max_size=12), st.floats(0, 2))
def test_whatever_seeds_have_found_is_told_and_drawn(right: list[tuple[int, int]], ratio: float) -> None:
    before, after = ([one[at] / 50 for one in right] for at in (0, 1))
    found = Seeds([str(seed) for seed in range(len(right))], before, after, True, ratio)
    low, high = found.interval
    assert low <= np.mean(found.gains) + 1e-12
    assert high >= np.mean(found.gains) - 1e-12
    assert "nan" not in "\n".join(seeds.said(found))
    ElementTree.fromstring(picture.seeds(found))
