"""What fine-tuning adds over several seeds, each with a split and a training of its own: more than one lucky seed?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thaw.artifacts import Paths, read_json
from thaw.data import manifest
from thaw.evidence import comparison, wording
from thaw.evidence.significance import Interval, resplit
from thaw.sweeps.ranking import CONFIDENCE, Ranked, aligned

HEADER = ("before", "after", "difference", f"{CONFIDENCE:.0%} interval", "better in")


@dataclass(frozen=True)
class Seeds:
    """The accuracies of the best configuration on test images, a figure for each seed; the others have none shown.

    Attributes:
        seeds: which they are.
        before, after: the accuracy of the head, and after fine-tuning; shares.
        is_tuned: whether there is an after.
        ratio: test images by training images; 0 where all seeds have the same test images, as the data's own split has
            it.
    """

    seeds: Sequence[str]
    before: Sequence[float]
    after: Sequence[float]
    is_tuned: bool
    ratio: float

    @property
    def gains(self) -> list[float]:
        """What fine-tuning adds with each seed."""
        return [after - before for before, after in zip(self.before, self.after, strict=True)]

    @property
    def interval(self) -> Interval:
        """The interval of the mean gain."""
        return resplit(self.gains, self.ratio, CONFIDENCE)

    @property
    def better(self) -> int:
        """With how many seeds fine-tuning was better."""
        return sum(gain > 0 for gain in self.gains)

    def figures(self) -> dict[str, float]:
        """Return what MLflow is told of it."""
        if not self.is_tuned:
            return {"before": float(np.mean(self.before))}
        low, high = self.interval
        means = {"before": self.before, "after": self.after, "gain": self.gains}
        found = {key: float(np.mean(values)) for key, values in means.items()}
        return found | {"gain_low": low, "gain_high": high, "better": float(self.better)}


def of(one: Ranked) -> Seeds:
    """Return what a configuration's jobs, which are whole ones, have found on their test images."""
    found = [read_json(paths.figures) for paths in one.jobs]
    splits = [_images(paths) for paths in one.jobs]
    same = len({tested for tested, _ in splits}) == 1
    return Seeds(
        seeds=[record.values["seed"] for record in one.records],
        before=[figures["head"]["accuracy"] for figures in found],
        after=[figures["finetuned"]["accuracy"] for figures in found],
        is_tuned=all(map(comparison.is_tuned, found)),
        ratio=0.0 if same else float(np.mean([len(tested) / learnt for tested, learnt in splits])),
    )


def _images(paths: Paths) -> tuple[frozenset[str], int]:
    """Which images a job was tested with, and how many it has learnt from."""
    records = manifest.read(paths.manifest)
    return frozenset(one.path for one in records if one.split == "test"), sum(one.split == "train" for one in records)


def several(ranking: Sequence[Ranked]) -> bool:
    """Whether what was ranked are whole jobs with several seeds each."""
    return bool(ranking) and ranking[0].records[0].rank == "model" and len(ranking[0].records) > 1


def said(found: Seeds) -> list[str]:
    """Say what fine-tuning adds: a table of one row, and how to read it."""
    overlap = (
        "with Nadeau and Bengio's variance, since their splits share most images"
        if found.ratio
        else "which have the same test images, so it is of other training alone"
    )
    return [
        f"What fine-tuning adds to the best configuration, on the test images of its {len(found.seeds)} seeds:",
        *aligned([HEADER, _cells(found)]),
        f"± is the standard deviation between seeds. The interval is of the mean difference (Student's t over seeds,\n"
        f"{overlap}).",
    ]


def _cells(one: Seeds) -> list[str]:
    if not one.is_tuned:
        return [_percent(one.before), "", "", "", ""]
    low, high = map(wording.points, one.interval)
    gain = f"{wording.points(float(np.mean(one.gains)))} ± {100 * np.std(one.gains, ddof=1):.1f}"
    return [
        _percent(one.before),
        _percent(one.after),
        gain,
        f"{low} to {high}",
        f"{one.better} of {len(one.gains)}",
    ]


def _percent(shares: Sequence[float]) -> str:
    return f"{wording.percent(float(np.mean(shares)))} ± {100 * np.std(shares, ddof=1):.1f}"


def rows(found: Seeds) -> list[list[str]]:
    """Lay out a table for files: a header, and a row for each seed."""
    each = zip(found.seeds, found.before, found.after, strict=True)
    return [
        ["seed", "before", "after"],
        *([seed, f"{before:.6g}", f"{after:.6g}" if found.is_tuned else ""] for seed, before, after in each),
    ]
