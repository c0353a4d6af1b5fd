"""What came of a sweep, in order: configurations by what their models do on images that are no test images.

A configuration is what its jobs have in common beside the seed: seeds are repetitions, and their mean is ranked.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from thaw.artifacts import Paths, fingerprint, read_json
from thaw.data import manifest
from thaw.evidence import scoring, significance, wording
from thaw.learning import examples, predictions
from thaw.networks.outputs import Labels

CONFIDENCE = 0.95  # of the interval that a cross-validated accuracy is given with
JUDGED = {"backbone": "cross-validated", "head": "validation", "model": "validation"}  # the figure it is ranked by
MODELS = {"head": "train_head", "finetuned": "finetune"}  # what may be kept, and the stage that made it
RESULT = "result.json"  # of a job; it is there when the job is finished
SHORT = 10  # letters of a job's name that are shown, and suffice


@dataclass(frozen=True)
class Record:
    """What became of a job in one sweep; a file of its own in the sweep's folder.

    Attributes:
        number: of the job in the sweep, from 0.
        values: of the keys that the sweep varies.
        job: its name; empty if it failed.
        reason: why it failed; empty if it did not.
        rank: what it was done for: one of ``searching.Rank``.
        seconds: what it took; 0 if it was finished already.
        began: when, in seconds since 1970.
    """

    number: int
    values: Mapping[str, str]
    job: str = ""
    reason: str = ""
    rank: str = "model"
    seconds: float = 0.0
    began: float = 0.0

    @property
    def what(self) -> str:
        """What it had for the keys that vary."""
        return " ".join(f"{key}={value}" for key, value in self.values.items())


Outcome = tuple[Record, Paths]  # and where the job's outputs are, if it is finished


def kept(paths: Paths) -> str:
    """Return which model a job keeps: ``head`` or ``finetuned``."""
    return str(read_json(paths.figures)["kept"]) if paths.figures.exists() else "head"


def judged(paths: Paths) -> tuple[scoring.Answers, Labels | None]:
    """Return what the model that a job keeps has answered to the images that it is ranked by, and their groups.

    These are the validation images; where a backbone was probed, all but the test images, as cross-validation has it.
    The groups are those of ``examples.groups``: None where every image is one of its own.
    """
    probe = paths.predictions("probe")
    found = predictions.read(probe if probe.exists() else paths.predictions(MODELS[kept(paths)]))
    known = {record.path: record for record in manifest.read(paths.manifest)}
    rows = [row for row, split in enumerate(found.splits) if probe.exists() or split == "val"]
    records = [known[found.paths[row]] for row in rows]
    true = examples.labels(records, read_json(paths.classes))
    return scoring.Answers(true, found.probabilities[rows]), examples.groups(records)


def validation(paths: Paths) -> tuple[float, float]:
    """Return the accuracy and the cross-entropy (nats) that a job is ranked by."""
    answers, _ = judged(paths)
    return scoring.accuracy(*answers), scoring.log_loss(*answers)


@dataclass(frozen=True)
class Ranked:
    """A configuration of a sweep with what it is ranked by.

    Attributes:
        records: its jobs, one for each seed.
        jobs: the outputs of each.
        accuracies: of each, of the model that is kept, see ``judged``.
        loss: the mean cross-entropy there, in nats.
        kept: which models that are.
        data: the names of the splits that they were judged on.
        milliseconds: that an image is in its network; 0 if that was not measured.
    """

    records: Sequence[Record]
    jobs: Sequence[Paths]
    accuracies: Sequence[float]
    loss: float
    kept: str
    data: Sequence[str]
    milliseconds: float = 0.0

    @property
    def accuracy(self) -> float:
        """The mean of all seeds."""
        return float(np.mean(self.accuracies))

    @property
    def figure(self) -> str:
        """The accuracy for people; of several seeds, with their standard deviation."""
        deviation = f" ± {100 * np.std(self.accuracies, ddof=1):.1f}" if len(self.accuracies) > 1 else ""
        return f"{self.accuracy:.1%}{deviation}"

    @property
    def interval(self) -> significance.Interval:
        """That of its accuracy, if there is one job only."""
        answers, groups = judged(self.jobs[0])
        return significance.share(answers.probabilities.argmax(1) == answers.labels, groups, CONFIDENCE)

    @property
    def cost(self) -> str:
        """The milliseconds for people; nothing if they were not measured."""
        return digits(self.milliseconds) if self.milliseconds else ""

    def named(self, keys: Sequence[str]) -> str:
        """What it has for these keys."""
        return " ".join(self.records[0].values.get(key, "") for key in keys)


def ranked(outcomes: Sequence[Outcome], rank: str = "model") -> list[Ranked]:
    """Put configurations in order: by accuracy, the mean of their seeds, of equals by the lower cross-entropy.

    The same configuration, written in two ways, counts once. One that lacks seeds which others have was given up, or
    has failed, and is not ranked. The test images have no say.
    """
    groups: dict[str, dict[str, Outcome]] = {}
    for record, paths in outcomes:
        if record.job and record.rank == rank:
            groups.setdefault(configuration(paths), {}).setdefault(record.job, (record, paths))
    most = max(map(len, groups.values()), default=0)
    found = [_ranked(list(group.values())) for group in groups.values() if len(group) == most]
    return sorted(found, key=lambda one: (-one.accuracy, one.loss, one.records[0].number))


def _ranked(outcomes: Sequence[Outcome]) -> Ranked:
    records, jobs = [record for record, _ in outcomes], [paths for _, paths in outcomes]
    figures = [validation(paths) for paths in jobs]
    data = [_split(paths) for paths in jobs]
    models = " or ".join(dict.fromkeys(kept(paths) for paths in jobs))
    loss = float(np.mean([loss for _, loss in figures]))
    return Ranked(records, jobs, [accuracy for accuracy, _ in figures], loss, models, data)


def _split(paths: Paths) -> str:
    """Name the split that a job is judged on: by the folder that is linked to; a copy, by hash."""
    prepared = paths.root / "prepare"
    return prepared.resolve().name if prepared.is_symlink() else fingerprint(paths.manifest)


def configuration(paths: Paths) -> str:
    """Return what tells a finished job's configuration from others, but for the seed."""
    config = read_json(paths.root / RESULT)["config"]
    return json.dumps({key: value for key, value in config.items() if key != "seed"}, sort_keys=True)


def table(ranking: Sequence[Ranked], varied: Sequence[str]) -> list[list[str]]:
    """Lay the ranking out: a header, and a row for each configuration, with the keys that tell them apart."""
    keys, rank = shown(ranking, varied), ranking[0].records[0].rank
    probed, whole = rank == "backbone" and len(ranking[0].records) == 1, rank == "model"
    timed = any(one.cost for one in ranking)
    header = ["rank", *keys, JUDGED[rank], *["interval", "p"] * probed, "loss"]
    header += [*["ms"] * timed, *["kept"] * whole, "job"]
    return [header] + [
        [
            str(place),
            *(one.records[0].values.get(key, "") for key in keys),
            one.figure,
            *(_proof(one, ranking[0]) if probed else ()),
            f"{one.loss:.4f}",
            *[one.cost] * timed,
            *[one.kept] * whole,
            one.records[0].job[:SHORT],
        ]
        for place, one in enumerate(ranking, 1)
    ]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay a table out in lines, its columns below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def digits(value: float) -> str:
    """Return a positive number to three digits."""
    return f"{float(f'{value:.3g}'):g}"


def shown(ranking: Sequence[Ranked], varied: Sequence[str]) -> list[str]:
    """Return the keys that tell configurations apart: the seed does not, if each has several."""
    return [key for key in varied if key != "seed" or len(ranking[0].records) == 1]


def front(ranking: Sequence[Ranked]) -> list[Ranked]:
    """Return Pareto's front, the quickest first: those that no other one is both quicker and more accurate than.

    Of those that are equal in both, the one with the better rank.
    """
    found: list[Ranked] = []
    timed = [one for one in ranking if one.milliseconds]
    for one in sorted(timed, key=lambda one: (one.milliseconds, -one.accuracy)):
        if not found or one.accuracy > found[-1].accuracy:
            found.append(one)
    return found


def _proof(one: Ranked, best: Ranked) -> tuple[str, str]:
    """Return the interval of an accuracy, and how likely its difference to the best one's is by chance."""
    (answers, groups), (theirs, _) = judged(one.jobs[0]), judged(best.jobs[0])
    low, high = one.interval
    if one is best or one.data != best.data:
        return f"{low:.1%} to {high:.1%}", ""
    p = significance.mcnemar(scoring.Pair(answers.labels, answers.probabilities, theirs.probabilities, groups)).p
    return f"{low:.1%} to {high:.1%}", f"{p:.2g}"


def summary(
    ranking: Sequence[Ranked], outcomes: Sequence[Outcome], varied: Sequence[str], winners: Sequence[Paths]
) -> str:
    """Return the ranked table, the winner with its test figure, and what failed.

    Args:
        ranking: the finished configurations, the best first.
        outcomes: of all jobs.
        varied: the keys that vary.
        winners: the outputs of the best one's whole jobs; none if it has none.
    """
    lines: list[str] = []
    if ranking:
        lines = [*aligned(table(ranking, varied)), ""]
        if (seeds := len(ranking[0].records)) > 1:
            lines.append(
                f"Figures are means of {seeds} seeds, which differ in their split, ± their standard deviation."
            )
    if len({tuple(one.data) for one in ranking}) > 1:
        lines.append("The jobs differ in the split of the data, so their validation figures are of different images.")
    if unranked := len({configuration(paths) for record, paths in outcomes if record.job}) - len(ranking):
        were = "configuration was" if unranked == 1 else "configurations were"
        lines.append(f"{unranked} more {were} given up early or cut short by a failure.")
    if ranking and ranking[0].records[0].rank == "backbone":
        lines += _best_backbone(ranking, shown(ranking, varied))
    elif ranking and winners:
        lines += _winner(ranking, winners)
    if failed := [record for record, _ in outcomes if record.reason]:
        lines += ["", f"{len(failed)} of {len(outcomes)} jobs failed; the same command tries them again:"]
        lines += [f"  {one.what}: {one.reason}" for one in failed]
    return "\n".join(lines).strip("\n") + "\n"


def _winner(ranking: Sequence[Ranked], winners: Sequence[Paths]) -> list[str]:
    best, name = ranking[0], ranking[0].records[0].job[:SHORT]  # also where the winner was finished as another job
    metrics = [read_json(one.figures) for one in winners]
    test = [one[one["kept"]] for one in metrics]
    count = f"the best of {len(ranking)} configurations" if len(ranking) > 1 else "one configuration"
    flatters = ", which flatters the best of many" if len(ranking) > 1 else ""
    tuned = kept(winners[0]) != best.kept and len(winners) == 1
    after = f"; fine-tuned: {validation(winners[0])[0]:.1%}" if tuned else ""
    found = f"{np.mean([one['accuracy'] for one in test]):.1%}"
    if len(test) > 1:
        low, high = min(one["accuracy"] for one in test), max(one["accuracy"] for one in test)
        found += f" on average, {low:.1%} to {high:.1%}"
    else:
        found += f" ({test[0]['accuracy_low']:.1%} to {test[0]['accuracy_high']:.1%})"
    return [
        f"Winner: job {name}, {count} by validation accuracy ({best.figure}{flatters}{after}).",
        f"On {metrics[0]['n_test']} test images, which chose nothing: {found}.",
        *_leaks(metrics),
        f"To make it the project's configuration: python -m stages.sweep --promote {name}",
    ]


def _leaks(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say what the audit has found of copies that are learnt from and asked about."""
    leaking = [one for one in metrics if "without_copies" in one]
    if len(metrics) == 1:
        return [f"{wording.leaks(one)}." for one in leaking]
    copies = sum(one["n_test"] - one["without_copies"]["images"] for one in leaking)
    images = sum(one["n_test"] for one in metrics)
    flatters = f"{copies} of {images} test images of all seeds have a copy among the training or validation images"
    return [f"{flatters}, which flatters: each job's report says by how much."] if leaking else []


def _best_backbone(ranking: Sequence[Ranked], keys: Sequence[str]) -> list[str]:
    best = ranking[0].records[0]
    answers, groups = judged(ranking[0].jobs[0])
    images = f"{len(answers.labels)} images"
    images += "" if groups is None else f" in {len(np.unique(groups))} groups"
    return [
        f"Cross-validated with linear heads on {images}; the test images have no part in it. The intervals are",
        f"those of {CONFIDENCE:.0%}; p is how likely a difference to the best as large as this is by chance (McNemar).",
        *_fronted(ranking, keys),
        f"To take the best one: python -m stages.sweep --promote {best.job[:SHORT]}",
    ]


def _fronted(ranking: Sequence[Ranked], keys: Sequence[str]) -> list[str]:
    """Say what the milliseconds are, and which networks are worth theirs."""
    worth = [one.named(keys) for one in front(ranking)]
    if not worth:
        return []
    return [
        "ms: how long the network alone takes for an image, in milliseconds on this machine. No other one is both",
        f"quicker and more accurate than {', '.join(worth)}.",
    ]
