"""The comparison of the models before and after fine-tuning: all figures, the verdict, and which model is kept.

Everything is computed from saved probabilities; ``evaluate`` writes it down.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thaw.data.manifest import Record, Split
from thaw.errors import UserError
from thaw.evidence.scoring import Answers, Pair, accuracy, scores
from thaw.evidence.significance import (
    NOTHING,
    UNDECIDED,
    Interval,
    bootstrap,
    change,
    effective,
    mcnemar,
    needed,
    share,
    verdict,
)
from thaw.learning import examples
from thaw.learning.calibration import calibrated_brier_scores, rescaled, temperature, threshold
from thaw.learning.predictions import Predictions
from thaw.networks.outputs import Labels

# Fewer test images show no gain below 3 points (6 images, by McNemar's test), and fine-tuning often brings no more.
FEW = 200


def pair(predicted: Mapping[str, Predictions], records: list[Record], classes: list[str], split: Split) -> Pair:
    """Bring both models' probabilities for the images of ``split`` into the manifest's order, with their groups.

    Raises:
        UserError: predictions are of other images or classes than the manifest's, or are no numbers.
    """
    chosen = [record for record in records if record.split == split]
    expected = {record.path for record in chosen}
    probabilities = []
    for stage, of_stage in predicted.items():
        places = {path: row for row, path in enumerate(of_stage.paths) if of_stage.splits[row] == split}
        if differing := places.keys() ^ expected:
            raise UserError(
                f"{stage}/predictions.csv: expected the {len(expected)} {split} images of prepare, found {len(places)} "
                f"images (only one of both has {min(differing)!r}); run 'dvc repro'"
            )
        if not of_stage.are_of(classes):
            raise UserError(
                f"{stage}/predictions.csv: expected the answers that the array beside it gives, among the "
                f"{len(classes)} classes of prepare, found others, or another order; run 'dvc repro'"
            )
        values = of_stage.probabilities[[places[record.path] for record in chosen]]
        if not np.isfinite(values).all():
            raise UserError(
                f"{stage}/predictions.csv: expected probabilities, found values that are no numbers: training has "
                f"diverged; lower the learning_rate in conf/{stage}/ and run 'dvc repro'"
            )
        probabilities.append(values)
    before, after = probabilities
    return Pair(examples.labels(chosen, classes), before, after, examples.groups(chosen))


def compare(
    val: Pair,
    test: Pair,
    *,
    confidence: float,
    resamples: int,
    seed: int,
    keep_best_of: Sequence[str],
    sure_enough: float,
    tuned: bool = True,
) -> dict[str, Any]:
    """Return the content of ``figures.json``.

    ``head``, ``finetuned`` and ``delta`` (after - before) hold the same keys: accuracy and macro_f1 with their
    intervals (…_low, …_high), balanced_accuracy, auroc (with more than one class), top_3 (with more than three), ece,
    brier, log_loss, all of the test images, and val_accuracy. Beside them stand mcnemar_p, fixed, broken, n_test,
    verdict, kept (the model), the temperature that calibrates it, and as ``calibrated`` its ece, brier and log_loss on
    the test images at that temperature; where no difference was shown, n_needed (see ``significance.needed``), and
    ``sure`` (see ``answering``), where there is one; n_groups, where some test images share a group. Shares are
    between 0 and 1. Six significant digits are left, so that the last bit of a sum, which may differ between machines,
    does not show.

    Where nothing was ``tuned``, before and after are one model: the keys are the same, and the head is kept, whatever
    ``keep_best_of`` says. Of ``few`` test images, or groups of them, accuracies and their difference have intervals
    that hold for few (``share``, ``change``): those of the bootstrap are too narrow then, and can be without any width.
    """
    intervals = bootstrap(test, confidence=confidence, resamples=resamples, seed=seed)
    points = {
        model: scores(test.labels, after) | {"val_accuracy": accuracy(val.labels, val_after)}
        for model, after, val_after in (("head", test.before, val.before), ("finetuned", test.after, val.after))
    }
    points["delta"] = {key: points["finetuned"][key] - value for key, value in points["head"].items()}
    fixed, broken, p = mcnemar(test)
    images = len(test.labels)
    rights = {"head": test.before.argmax(1) == test.labels, "finetuned": test.after.argmax(1) == test.labels}
    if few(test.units):
        for model, right in rights.items():
            intervals[model]["accuracy"] = share(right, test.groups, confidence)
        if tuned:
            intervals["delta"]["accuracy"] = change(test, confidence)
    best = kept(val, keep_best_of if tuned else ["head"])
    warmth = rounded(temperature(val.labels, val.before if best == "head" else val.after))
    val_calm, test_calm = (rescaled(one.before if best == "head" else one.after, warmth) for one in (val, test))
    calm = scores(test.labels, test_calm)
    said = verdict(p, intervals["delta"]["accuracy"], confidence) if tuned else NOTHING
    worth = effective(rights["finetuned"].astype(np.float64) - rights["head"], test.groups) / images
    shows = needed(fixed, broken, images, confidence, worth) if said == UNDECIDED else None
    asked = Answers(test.labels, test_calm)
    sure = answering(Answers(val.labels, val_calm), asked, sure_enough, confidence, test.groups)
    return {
        **{model: with_intervals(figures, intervals[model]) for model, figures in points.items()},
        "mcnemar_p": rounded(p),
        "fixed": fixed,
        "broken": broken,
        "n_test": images,
        **({} if test.groups is None else {"n_groups": test.units}),
        "verdict": said,
        **({"n_needed": shows} if shows else {}),
        "kept": best,
        "temperature": warmth,
        "calibrated": {key: rounded(calm[key]) for key in ("ece", "brier", "log_loss")},
        **({"sure": sure} if sure else {}),
    }


def answering(
    val: Answers, test: Answers, wanted: float, confidence: float, groups: Labels | None = None
) -> dict[str, float]:
    """Return what comes of letting the model answer only where it is sure, for it to be right so often.

    The validation images choose the ``threshold``, see ``calibration.threshold``; then follow the share of the test
    images that are answered (``coverage``) and how often these answers are right (``accuracy``), with their intervals
    (Wilson), for which ``groups`` of test images count. Nothing where the validation images have no threshold to offer.
    """
    limit = threshold(val.labels, val.probabilities, wanted)
    if limit is None:
        return {}
    limit = rounded(limit)
    answered = test.probabilities.max(1) >= limit
    right = (test.probabilities.argmax(1) == test.labels)[answered]
    points, intervals = {"coverage": float(answered.mean())}, {"coverage": share(answered, groups, confidence)}
    if len(right):
        points["accuracy"] = float(right.mean())
        intervals["accuracy"] = share(right, None if groups is None else groups[answered], confidence)
    return {"wanted": wanted, "threshold": limit, **with_intervals(points, intervals)}


def among(test: Pair, which: NDArray[np.bool_], confidence: float) -> dict[str, float]:
    """Return how many of the test images some are, and the accuracies on these alone, with Wilson's intervals."""
    some, count = test.of(which), int(which.sum())
    models = {"before": some.before, "after": some.after} if count else {}
    rights = {name: model.argmax(1) == some.labels for name, model in models.items()}
    intervals = {name: share(right, some.groups, confidence) for name, right in rights.items()}
    return {"images": count, **with_intervals({key: float(right.mean()) for key, right in rights.items()}, intervals)}


def metrics(figures: Mapping[str, Any]) -> dict[str, float]:
    """Return the few of all ``figures`` that a person compares, for ``metrics.json``: as many as a table has room for.

    ``before`` and ``after`` are accuracies on the test images, as is ``zero_shot``, where there is such a thing;
    ``gain`` is the difference of the two with its interval, ``p`` McNemar's, ``val_kept`` the validation accuracy of
    the model that is kept. Shares between 0 and 1.
    """
    head, tuned, delta = figures["head"], figures["finetuned"], figures["delta"]
    shares = {
        **({"zero_shot": figures["zero_shot"]["accuracy"]} if "zero_shot" in figures else {}),
        "before": head["accuracy"],
        "after": tuned["accuracy"],
        "gain": delta["accuracy"],
        "gain_low": delta["accuracy_low"],
        "gain_high": delta["accuracy_high"],
    }
    found = {key: round(value, 4) for key, value in shares.items()} | {"p": float(f"{figures['mcnemar_p']:.2g}")}
    return found | {"val_kept": round(figures[figures["kept"]]["val_accuracy"], 4)}


def counted(metrics: Mapping[str, Any]) -> str:
    """Say how many test images there are, and how many groups of them, where there are such."""
    images = f"{metrics['n_test']} test images"
    return f"{images} in {metrics['n_groups']} groups" if "n_groups" in metrics else images


def few(units: int) -> bool:
    """Whether so many test images, or groups of them, are so few that what they cannot show is to be said first."""
    return units < FEW


def is_tuned(metrics: Mapping[str, Any]) -> bool:
    """Whether there is a model after fine-tuning: what ``compare`` returned says so by its verdict."""
    return bool(metrics["verdict"] != NOTHING)


def kept(val: Pair, candidates: Sequence[str]) -> str:
    """Choose the model to keep: the lower calibrated Brier score on the validation images, of equals the head.

    By that and not by the accuracy, because it is the steadier judge: see ``calibrated_brier_scores``. Fine-tuning
    that hurts is so not passed on; the test images have no say in it.
    """

    def rank(model: str) -> tuple[float, bool]:
        score = calibrated_brier_scores(val.labels, val.before if model == "head" else val.after).mean()
        return round(float(score), 4), model != "head"  # two engines' rounding makes no difference

    return min(candidates, key=rank)


def with_intervals(figures: Mapping[str, float], intervals: Mapping[str, Interval]) -> dict[str, float]:
    """Put each interval's ends behind its figure."""
    row = {}
    for key, value in figures.items():
        row[key] = rounded(value)
        if key in intervals:
            row |= {f"{key}_{end}": rounded(bound) for end, bound in intervals[key]._asdict().items()}
    return row


def rounded(value: float) -> float:
    return float(f"{value:.6g}")
