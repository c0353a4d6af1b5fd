"""All that a report tells."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thaw.artifacts import Paths, read_json
from thaw.data.manifest import Record
from thaw.evidence import comparison
from thaw.evidence.forecasting import Forecast
from thaw.evidence.scoring import Answers, Pair
from thaw.evidence.splits import Spread
from thaw.learning import curves
from thaw.learning.calibration import rescaled
from thaw.learning.curves import Row
from thaw.learning.heads import Head
from thaw.networks.activation import Layers


@dataclass(frozen=True)
class Story:
    """All that the report tells.

    Attributes:
        metrics: what ``comparison.compare`` returned.
        classes: the class names.
        paths: the test images, relative to ``data``, in the order of ``test``.
        test: both models' probabilities for them.
        forecast: what more images would bring; None where there are too few to say.
        spread: how heads fare on other splits; None where they were not asked, or there are too few images.
        curves: ``history.csv`` by stage.
        prepared: ``summary.json`` of prepare: images by split and class, refused files by kind, duplicates, splits.
        refused: rows of ``refused.csv``: path, reason.
        findings: what the data say about themselves, see ``thaw.audit.findings.Findings``.
        stored: ``meta.json`` by stage: what the network outputs that it used take in the feature store.
        config: the resolved configuration by section.
        data: the folder of the images.
        networks: of the model before and, where there is one, of the one after: OpenVINO IR, and the Dense layers that
            it lacks, for ``activation.Mapped``.
    """

    metrics: Mapping[str, Any]
    classes: list[str]
    paths: list[str]
    test: Pair
    forecast: Forecast | None
    spread: Spread | None
    curves: Mapping[str, list[Row]]
    prepared: Mapping[str, Any]
    refused: Sequence[Mapping[str, str]]
    findings: Mapping[str, Any]
    stored: Mapping[str, Mapping[str, Any]]
    config: Mapping[str, Any]
    data: Path
    networks: Sequence[tuple[Path, Layers]]

    @property
    def few(self) -> bool:
        """Whether there are so few test images, or groups of them, that what they cannot show is to be said first."""
        return comparison.few(self.metrics.get("n_groups", self.metrics["n_test"]))

    @property
    def tuned(self) -> bool:
        """Whether there are two models to tell of; else all that is shown is "before"."""
        return comparison.is_tuned(self.metrics)

    @property
    def grouped(self) -> bool:
        """Whether some test images share a group, so that groups are what is counted."""
        return "n_groups" in self.metrics

    @property
    def kept(self) -> Answers:
        """What the kept model says of the test images, calibrated."""
        probabilities = self.test.before if self.metrics["kept"] == "head" else self.test.after
        return Answers(self.test.labels, rescaled(probabilities, self.metrics["temperature"]))


def tell(
    paths: Paths,
    classes: list[str],
    records: Sequence[Record],
    test: Pair,
    metrics: Mapping[str, Any],
    forecast: Forecast | None,
    spread: Spread | None,
    config: Mapping[str, Any],
) -> Story:
    """Put a story together from what was computed and what the stages before have left."""
    with paths.refused.open(newline="", encoding="utf-8") as file:
        refused = list(csv.DictReader(file))
    tuned = comparison.is_tuned(metrics)
    return Story(
        metrics=metrics,
        classes=classes,
        paths=[record.path for record in records if record.split == "test"],
        test=test,
        forecast=forecast,
        spread=spread,
        curves={stage: curves.read(paths.history(stage)) for stage in ("train_head", "finetune")},
        prepared=read_json(paths.manifest.with_name("summary.json")),
        refused=refused,
        findings=read_json(paths.findings),
        stored={stage: read_json(paths.stored(stage)) for stage in ("extract_features", "finetune")},
        config=config,
        data=paths.data,
        networks=[(paths.backbone, Head.load(paths.head).layers), (paths.network, [])][: 2 if tuned else 1],
    )
