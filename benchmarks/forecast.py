"""Do forecasts of more images come true? Half of the training images foretell what all of them gave.

    python -m benchmarks.forecast --weights FILE [--seeds 0,1,2] NAME=FOLDER ...

The pipeline's own stages make the features, with MobileNetV2 1.0 of FILE at 160 px; each seed is another split. From
half of the training images the accuracy of all of them is forecast, from a quarter that of half of them, and compared
with what the same head then gives on the same validation images. Prints a table (Markdown) for docs/evidence.md.
"""

import argparse
import contextlib
import io
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.accuracy import numbers, run
from stages import extract_features, prepare
from thaw.artifacts import Paths, cache, fingerprint, read_json
from thaw.config.composing import compose
from thaw.data import manifest
from thaw.evidence import forecasting
from thaw.learning import subsets

CONFIDENCE = 0.95


class Case(NamedTuple):
    """A forecast and what came of it: the share of the training images that it was made from, how many that are, and
    gains in percentage points.
    """

    data: str
    seed: int
    share: float
    images: int
    forecast: float
    low: float
    high: float
    true: float

    @property
    def held(self) -> bool:
        """Whether the range holds what came."""
        return self.low <= self.true <= self.high

    @property
    def off(self) -> float:
        """By how much the forecast was wrong."""
        return abs(self.forecast - self.true)


def main() -> None:
    """Be the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forecast", description="Do forecasts come true?")
    parser.add_argument("data", nargs="+", metavar="NAME=FOLDER", help="folders of images, one for each class")
    parser.add_argument("--weights", type=Path, required=True, help="of MobileNetV2 without its top")
    parser.add_argument("--seeds", type=numbers, default=[0, 1, 2])
    given = parser.parse_args()
    cases = []
    for name, _, data in (one.partition("=") for one in given.data):
        for seed in given.seeds:
            cases += ask(name, Path(data).absolute(), given.weights.absolute(), seed)
            print(*cases[-2:], sep="\n", flush=True)
    print(render(cases))


def ask(name: str, data: Path, weights: Path, seed: int) -> list[Case]:
    """Forecast what half, and all, of the training images give."""
    network = ["backbone=mobilenet_v2", f"backbone.weights={weights}", "backbone.input_size=160", "augment=none"]
    config = compose(["dataset=folder", *network, f"seed={seed}"])
    paths = Paths(data, cache() / "benchmarks" / "forecast" / fingerprint(str(data), *config.values()))
    with contextlib.redirect_stdout(io.StringIO()):
        if not paths.features.exists():
            run(paths, config, prepare, extract_features)
    records, classes = manifest.read(paths.manifest), read_json(paths.classes)
    shares = {share: subsets.measure(paths.features, records, classes, "none", seed, share) for share in (0.25, 0.5, 1)}
    cases = []
    for share in (0.25, 0.5):
        if (known := shares[share]) and (later := shares[2 * share]):
            found = forecasting.forecast(known, CONFIDENCE, seed)
            gain = float(later.right[-1].mean() - known.right[-1].mean())
            points = [round(100 * value, 1) for value in (found.gain, *found.interval, gain)]
            cases.append(Case(name, seed, share, known.images, *points))
    return cases


def render(cases: Sequence[Case]) -> str:
    """Lay out the table, a row for each data set and size, and what it comes to (Markdown)."""
    lines = ["| data | from | forecast, mean | range, mean width | came, mean | off by, mean | held |"]
    lines.append("|---" * 7 + "|")
    groups: dict[tuple[str, float], list[Case]] = {}
    for one in cases:
        groups.setdefault((one.data, one.share), []).append(one)
    for (name, share), rows in sorted(groups.items()):
        images, forecast, width, true, off = (
            statistics.mean(values)
            for values in zip(*((r.images, r.forecast, r.high - r.low, r.true, r.off) for r in rows), strict=True)
        )
        lines.append(
            f"| {name} | {share:.0%}: {images:,.0f} images | {forecast:+.1f} | {width:.1f} | {true:+.1f} | {off:.1f} | "
            f"{sum(one.held for one in rows)} of {len(rows)} |"
        )
    held = sum(one.held for one in cases)
    high, off, nothing = (
        statistics.mean(values)
        for values in zip(*((one.forecast - one.true, one.off, abs(one.true)) for one in cases), strict=True)
    )
    found = [
        f"{held} of {len(cases)} ranges ({CONFIDENCE:.0%}) held what came, {held / len(cases):.0%}.",
        f"Forecasts were off by {off:.1f} points on average ('no gain' would have been by {nothing:.1f}),",
        f"and {abs(high):.1f} too {'high' if high > 0 else 'low'}.",
    ]
    return "\n".join([*lines, "", *found])


if __name__ == "__main__":
    main()
