"""Figures in the words and digits of the report, the card and the summary."""

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from thaw.evidence import comparison, significance
from thaw.evidence.forecasting import Forecast
from thaw.evidence.story import Story

NAMED = 5  # classes that are named in a sentence; of more, their number says enough


def keeping(metrics: Mapping[str, Any]) -> str:
    """Say which model is kept, and why."""
    name = {"head": "the head alone", "finetuned": "the fine-tuned model"}[metrics["kept"]]
    before, after = (percent(metrics[model]["val_accuracy"]) for model in ("head", "finetuned"))
    if not comparison.is_tuned(metrics):
        return f"{name} (validation accuracy {before})"
    return f"{name} (validation accuracy {before} before, {after} after)"


def shortfall(metrics: Mapping[str, Any], confidence: float) -> list[str]:
    """Say what so few test images cannot show, in numbers: see ``significance.least_fixed``."""
    images, least = metrics["n_test"], significance.least_fixed(confidence)
    units, what = (metrics["n_groups"], "groups") if "n_groups" in metrics else (images, "images")
    said = [f"{comparison.counted(metrics)} are few: the true accuracy may lie anywhere in its {confidence:.0%} range."]
    if not comparison.is_tuned(metrics):
        return said
    if least > units:
        return [
            *said,
            f"They cannot show any difference: it takes {least} {what} that only one of two models gets right.",
        ]
    return [
        *said,
        f"A difference below {round(100 * least / images, 1):g} percentage points ({least} images) cannot be shown by "
        f"them, whatever the models.",
    ]


def intervals(story: Story) -> str:
    """Say what the ranges are: see ``comparison.compare``."""
    if not story.few:
        return f"bootstrap intervals{', for which whole groups are drawn' if story.grouped else ''}"
    difference = "difference: Bonett and Price; " if story.tuned else ""
    drawn = " of whole groups; a group counts for as many images as it is worth" if story.grouped else ""
    return f"intervals (Wilson; {difference}macro F1: bootstrap{drawn})"


def tested(metrics: Mapping[str, Any]) -> str:
    """Name the p-value: see ``significance.mcnemar``."""
    return "exact p over groups" if "n_groups" in metrics else "McNemar's exact p"


def zero_shot(metrics: Mapping[str, Any], confidence: float) -> str:
    """Say what zero-shot is and what the trained head adds to it; nothing where no class names were asked."""
    if not (found := metrics.get("zero_shot")):
        return ""
    gain, low, high = (points(found[key]) for key in ("gain", "gain_low", "gain_high"))
    interval = significance.Interval(found["gain_low"], found["gain_high"])
    if significance.verdict(found["p"], interval, confidence) == significance.UNDECIDED:
        said = "no difference to the head is shown:"
    else:
        said = f"the head is right {'more often, by' if found['gain'] > 0 else 'less often, by more than noise:'}"
    return f"Zero-shot: the class names alone, without any training; {said} {gain} points ({low} to {high})"


def lagging(metrics: Mapping[str, Any], confidence: float) -> list[str]:
    """Say which slices are worse than the rest by more than chance (see ``slices.measured``), the surest first."""
    rows = metrics.get("slices", [])
    key = "before" if metrics["kept"] == "head" else "after"
    said = []
    for row in sorted((one for one in rows if one["p"] < 1 - confidence), key=lambda one: one["p"]):
        others = metrics["n_test"] - row["images"]
        right = metrics[metrics["kept"]]["accuracy"] * metrics["n_test"] - row[key] * row["images"]
        low, high = (percent(row[f"{key}_{end}"]) for end in ("low", "high"))
        said.append(
            f"Worse than the rest by {row['column']}: {row['value']}, {percent(row[key])} of {row['images']} test "
            f"images right ({low} to {high}), of the others {percent(right / others)} "
            f"(p = {p_value(row['p'])}, with {len(rows)} slices looked at)"
        )
    return said


def cross_validated(metrics: Mapping[str, Any]) -> str:
    """Say what the head gets on all images, asked in folds; nothing where they were not."""
    if not (found := metrics.get("cross_validated")):
        return ""
    value, low, high = (percent(found[key]) for key in ("accuracy", "accuracy_low", "accuracy_high"))
    count = math.ceil(found["splits"] / found["folds"])
    times = {1: "once", 2: "twice"}.get(count, f"{count} times")
    return (
        f"Every image as a test image {times} ({found['folds']} folds, head only): {value} of {found['images']:,} "
        f"images ({low} to {high})"
    )


def is_odd(metrics: Mapping[str, Any]) -> bool:
    """Whether the run's own split is so lucky, or unlucky, as seldom one is."""
    found = metrics.get("cross_validated", {})
    return "here" in found and not found["expected_low"] <= found["here"] <= found["expected_high"]


def luck(metrics: Mapping[str, Any]) -> str:
    """Say where the run's own split lies among others; nothing where it is not drawn as they are."""
    found = metrics.get("cross_validated", {})
    if "here" not in found:
        return ""
    here, mean = found["here"], found["accuracy"]
    lucky = "lucky" if here > mean else "unlucky"
    if is_odd(metrics):
        which = f"a{'' if here > mean else 'n'} {lucky} one"
    else:
        which = f"among the {lucky.removesuffix('y')}ier" if abs(here - mean) > found["deviation"] else "like others"
    return (
        f"This split is {which}: {percent(here)} for a head here, {percent(mean)} ± {100 * found['deviation']:.1f} on "
        f"{found['splits']} other splits ({found['better']} of them better)"
    )


def other_splits(story: Story) -> list[str]:
    """Say, a line each, what of other splits matters: of few test images, what all say; of an odd split, that it is."""
    said = [cross_validated(story.metrics)] if story.few else []
    return [line for line in (*said, luck(story.metrics) if is_odd(story.metrics) else "") if line]


def leaks(metrics: Mapping[str, Any]) -> str:
    """Say what the accuracy is without the test images that the models have as good as seen; nothing if all are new."""
    if not (found := metrics.get("without_copies")):
        return ""
    rest = found["images"]
    said = (
        f"{metrics['n_test'] - rest} of {metrics['n_test']} test images have a copy among the training or validation "
        f"images"
    )
    if not rest:
        return f"{said}: how right the models are on others is not known"
    names = {"before": " before", "after": " after"} if comparison.is_tuned(metrics) else {"before": ""}
    shares = [
        f"{percent(found[key])}{name} ({percent(found[f'{key}_low'])} to {percent(found[f'{key}_high'])})"
        for key, name in names.items()
    ]
    return f"{said}; on the {rest} {'other' if rest == 1 else 'others'}, accuracy is {' and '.join(shares)}"


def audited(findings: Mapping[str, Any], confidence: float) -> list[str]:
    """Say in sentences what the data say about themselves."""
    doubtful, images, copies = findings["labels"], findings["images"], findings["copies"]
    low, high = (round(images * end) for end in significance.wilson(doubtful / images, images, confidence))
    across = sum(len({one["split"] for one in group}) > 1 for group in copies)
    said = [f"{images:,} pictures were looked at, drawn from all {findings['of']:,}."] if "of" in findings else []
    if conflicts := findings["conflicts"]:
        said.append(
            f"{conflicts} picture{' is' if conflicts == 1 else 's are'} in two classes: identical files with different "
            f"labels, of which none is used until it is said which label is right."
        )
    if copies:
        said.append(
            f"{len(copies)} group{'s' if len(copies) > 1 else ''} of pictures that show the same (saved anew, resized, "
            f"cropped, mirrored, or taken a moment later), {across} of them in more than one split."
        )
    said.append(
        f"In doubt: {doubtful} of {images:,} labels ({low} to {high}), "
        f"by heads that have not seen the picture. Where people have labelled with care, or heads know little, most of "
        f"these pictures are hard, and not wrong."
    )
    said.append(
        f"Odd by themselves (blank, dark, blurred, tiny or very long): {findings['odd']}; unlike all others: "
        f"{findings['outliers']}."
    )
    said += [
        f"The {cue['feature']} alone is right for {cue['right']:.0%} of the images, where the most frequent class is "
        f"{cue['majority']:.0%}; it tells {cue['label']} best. A network can learn that instead of what is shown."
        for cue in findings["cues"]
    ]
    return said


def next_steps(story: Story) -> list[str]:
    """Say, a line each, what would show more, what would be better, and what comes of answering only where sure."""
    said = (needed(story.metrics), more_images(story.forecast), answered(story.metrics))
    return [first_upper(line) for line in said if line]


def needed(metrics: Mapping[str, Any]) -> str:
    """Say how many test images would show a difference of the size that was seen; nothing where one was shown."""
    if "n_needed" not in metrics:
        return ""
    alike = ", in groups like these," if "n_groups" in metrics else ""
    return f"some {_about(metrics['n_needed'])} test images{alike} would show such a difference"


def more_images(forecast: Forecast | None) -> str:
    """Say what twice as many training images would bring, in percentage points; nothing if that is not known."""
    if forecast is None:
        return ""
    low, high = map(points, forecast.interval)
    return f"twice as many to train on: about {points(forecast.gain)} points ({low} to {high}) for the head"


def gaining(story: Story) -> str:
    """Say which classes the last doubling of the images that heads have learnt from has brought something."""
    names = [story.classes[number] for number in story.forecast.gaining] if story.forecast else []
    if not names:
        return "No class gained from the last doubling by more than noise."
    which = ", ".join(names) if len(names) <= NAMED else f"{len(names)} of {len(story.classes)} classes"
    return f"By more than noise, the last doubling has brought something to {which}."


def answered(metrics: Mapping[str, Any]) -> str:
    """Say what comes of answering only where the model is sure enough; nothing where there is no threshold."""
    if not (found := metrics.get("sure")):
        return ""
    if "accuracy" not in found:
        return f"Sure of at least {percent(found['threshold'])}, it answers none of the test images"
    value, low, high = (percent(found[key]) for key in ("accuracy", "accuracy_low", "accuracy_high"))
    rightly = f"{value} of them rightly ({low} to {high})"
    if not found["threshold"]:
        return f"Sure enough of every image, it answers all test images, {rightly}"
    threshold, coverage = (percent(found[key]) for key in ("threshold", "coverage"))
    return f"Sure of at least {threshold}, it answers {coverage} of the test images, {rightly}"


def _about(count: int) -> str:
    """Return a large number as it can be known: its first two digits."""
    return f"{int(float(f'{count:.2g}')):,}"


def coverage(images: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Say which classes the figures are not about, because the data's own split has none of their images.

    Args:
        images: how many there are, by split and class.
    """
    said = []
    if missing := [name for name, count in images["test"].items() if not count]:
        rest = len(images["test"]) - len(missing)
        said.append(
            f"{_some(missing, images['test'])} no test images: macro F1 is the mean of the other {rest} classes, and "
            f"how well a picture of one without is recognised is not known."
        )
    if missing := [name for name, count in images["val"].items() if not count]:
        said.append(f"{_some(missing, images['val'])} no validation images: they had no say in what was chosen.")
    return said


def _some(names: Sequence[str], all_names: Collection[str]) -> str:
    """Return how many of the classes there are, with their names if these are few."""
    listed = f" ({', '.join(names)})" if len(names) <= NAMED else ""
    return f"{len(names)} of {len(all_names)} classes{listed} {'has' if len(names) == 1 else 'have'}"


def percent(value: float) -> str:
    """Return a share as a percentage."""
    return f"{value:.1%}"


def points(value: float) -> str:
    """Return a difference of shares in percentage points, with its sign unless it rounds to zero."""
    return minus(f"{100 * value:+.1f}") if abs(value) >= 0.0005 else "0.0"


def p_value(value: float) -> str:
    """Return a p-value to three decimals, or its order of magnitude."""
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}".replace("e-0", "e-")


def plain(value: Any) -> str:
    """Return a configured value as people write it; of an absolute path, the last part only."""
    if isinstance(value, list):
        return ", ".join(map(plain, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(inner)}" for key, inner in value.items() if inner is not None)
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else str(value)


def first_upper(text: str) -> str:
    """Return a sentence's beginning as a sentence begins."""
    return text[:1].upper() + text[1:]


def minus(text: str) -> str:
    """Return a number with the sign that people print."""
    return text.replace("-", "−")
