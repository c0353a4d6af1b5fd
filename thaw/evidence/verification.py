"""Is this still the result that was committed, and if not, why? ``python -m thaw.evidence.verification`` says both.

Compares the pipeline's outputs with those of the last commit, by what Git has of them: dvc.lock (hashes of all that
went in and came out) and, in artifacts/evaluate, the prediction for each test image and what computed it. Prints what
it found, and leaves it in artifacts/verification.svg, which the report shows.

The bytes are the same where the same instructions do the arithmetic. Another kind of processor, number of threads,
engine or version adds the same numbers up in another order: the last bits of the features are then others, and
fine-tuning makes more of that, as it would of another order of the images. How much, in predictions: ``ROUNDING``.
"""

import csv
import json
import sys
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import yaml

from thaw.artifacts import PROJECT, Paths, git, write_text
from thaw.config.schema import NO_MATTER
from thaw.errors import UserError, fail

# The share of test images for which rounding may change the predicted class, before and after fine-tuning. On the
# sample, with other instruction sets, threads and engines, it was 0 and at most 1.6% (accuracy: 0 and 1.1 points);
# tests/thaw/evidence/test_verification.py.
ROUNDING = {"head": 0.01, "finetuned": 0.05}
EVALUATED = "artifacts/evaluate"
ENVIRONMENT = f"{EVALUATED}/environment.json"


@dataclass(frozen=True)
class Result:
    """What is known of a result, in the workspace or in a commit.

    Attributes:
        data: the hash of the data.
        code: hashes of the modules, by path.
        configuration: the chosen options (as ``backbone``) and their values (as ``backbone.alpha``).
        environment: see ``machine.environment``.
        outputs: hashes, by path.
        answers: of each model, the true and the predicted class of each test image, in the order of the manifest.
    """

    data: str
    code: Mapping[str, str]
    configuration: Mapping[str, Any]
    environment: Mapping[str, Any]
    outputs: Mapping[str, str]
    answers: Mapping[str, list[list[str]]]

    @classmethod
    def read(cls, text: Callable[[str], str]) -> "Result":
        """Take it from files, whose content ``text`` gives.

        Raises:
            OSError: a file is missing.
        """
        stages = yaml.safe_load(text("dvc.lock"))["stages"].values()
        hashes = {one["path"]: one.get("md5", "") for stage in stages for one in stage.get("deps", [])}
        configuration: dict[str, Any] = {}
        for file, values in ((file, values) for stage in stages for file, values in stage.get("params", {}).items()):
            group = Path(file).parent.name  # conf/<group>/<option>.yaml, or params.yaml
            configuration |= {group: Path(file).stem} if group else {}
            configuration |= {f"{group}.{key}" if group else key: value for key, value in values.items()}
        return cls(
            data=hashes.get("data", ""),
            code={path: md5 for path, md5 in hashes.items() if path.startswith(("thaw/", "stages/"))},
            configuration=configuration,
            environment=json.loads(text(ENVIRONMENT)),
            outputs={one["path"]: one.get("md5", "") for stage in stages for one in stage.get("outs", [])},
            answers={
                model: list(csv.reader(text(f"{EVALUATED}/plots/confusion_{model}.csv").splitlines()))[1:]
                for model in ROUNDING
            },
        )


@dataclass(frozen=True)
class Verdict:
    """What a comparison has found.

    Attributes:
        sentence: the answer.
        details: why, and how far apart: a line each.
        failed: whether the result should have been the same, and is not.
    """

    sentence: str
    details: list[str]
    failed: bool = False


def compare(before: Result, now: Result) -> Verdict:
    """Say whether a result is that of before, and if not, why."""
    values = {key for key in {**before.configuration, **now.configuration} if not _is_implied(key, before, now)}
    chosen = _changes(before.configuration, now.configuration, values - NO_MATTER)
    code = sorted(path for path in {*before.code, *now.code} if before.code.get(path) != now.code.get(path))
    computed = _changes(before.configuration, now.configuration, values & NO_MATTER)
    computed += _changes(before.environment, now.environment, {**before.environment, **now.environment})
    matter = {"data": ["data/"] if before.data != now.data else [], "configuration": chosen}
    reasons = matter | {"code": code, "environment": computed}
    why = [f"{name}: {', '.join(found)}" for name, found in reasons.items() if found]
    if all(before.outputs.get(path) == md5 for path, md5 in now.outputs.items() if path != ENVIRONMENT):
        return Verdict("the same, to the byte", [f"although it differs in {one}" for one in why])
    why = [f"differs in {one}" for one in why]
    truth = [[row[0] for row in result.answers["head"]] for result in (before, now)]
    if truth[0] != truth[1]:
        return Verdict("another one, of other test images", why, failed=not any(matter.values()))
    shares = {model: _differing(before.answers[model], now.answers[model]) for model in ROUNDING}
    figures = [_figures(before, now, model, share, len(truth[0])) for model, share in shares.items()]
    if any(matter.values()):
        return Verdict("another one, as it should be", [*why, *figures])
    if all(shares[model] <= most for model, most in ROUNDING.items()):
        return Verdict("the same within rounding", [*figures, *why])
    return Verdict("another one, by more than rounding explains", [*figures, *why], failed=True)


def _is_implied(key: str, before: Result, now: Result) -> bool:
    """Whether a value belongs to an option that is another one altogether."""
    option = key.partition(".")[0]
    return key != option and before.configuration.get(option) != now.configuration.get(option)


def _changes(before: Mapping[str, Any], now: Mapping[str, Any], keys: Any) -> list[str]:
    return [
        f"{key} {before.get(key, 'unset')} → {now.get(key, 'unset')}"
        for key in sorted(keys)
        if before.get(key) != now.get(key)
    ]


def _differing(before: list[list[str]], now: list[list[str]]) -> float:
    """The share of test images for which another class is predicted."""
    return sum(row != other for row, other in zip(before, now, strict=True)) / len(now)


def _figures(before: Result, now: Result, model: str, share: float, images: int) -> str:
    was, is_now = (
        sum(actual == predicted for actual, predicted in result.answers[model]) / images for result in (before, now)
    )
    when = {"head": "before fine-tuning", "finetuned": "after it"}[model]
    return (
        f"{when}: accuracy {is_now:.1%}, committed {was:.1%}; {round(share * images)} of {images} predictions differ "
        f"(rounding explains {int(ROUNDING[model] * images)})"
    )


def verify(paths: Paths) -> Verdict:
    """Compare the outputs in the workspace with those of the last commit.

    Raises:
        UserError: there are none in the workspace.
    """
    try:
        now = Result.read(lambda name: (PROJECT / name).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"expected the results of 'dvc repro', found no {error.filename}; run it first") from None
    try:
        before = Result.read(_committed)
    except OSError:
        verdict = Verdict(
            "there is none yet",
            ["'git add dvc.lock artifacts && git commit' makes this one the result to compare with"],
        )
    else:
        verdict = compare(before, now)
    write_text(paths.verification, _drawn(verdict))
    return verdict


def _committed(name: str) -> str:
    """The content of a file in the last commit.

    Raises:
        OSError: it has none, or there is no Git.
    """
    text = git("show", f"HEAD:./{name}")
    if text is None:
        raise OSError(name)
    return text


def _lines(verdict: Verdict) -> list[str]:
    return [f"Compared with the committed result: {verdict.sentence}", *(f"  {line}" for line in verdict.details)]


def _drawn(verdict: Verdict) -> str:
    """Draw the verdict: the report shows it as a picture, because nothing in a report is run."""
    rows = [row for line in _lines(verdict) for row in textwrap.wrap(line, 120, subsequent_indent="    ")]
    height = 20 * len(rows) + 8
    texts = "".join(f'<text x="0" y="{20 * n + 18}">{escape(row.strip())}</text>' for n, row in enumerate(rows))
    dark = "@media (prefers-color-scheme:dark){text{fill:#98a2b3}}"  # as in the report, whose colours these are
    style = f"text{{font:14px system-ui,sans-serif;fill:#667085}}{dark}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="900" height="{height}" viewBox="0 0 900 {height}">'
        f"<style>{style}</style>{texts}</svg>\n"
    )


def main() -> None:
    """Be the command line: exit status 1 where the result should have been the same, and is not."""
    try:
        verdict = verify(Paths())
    except UserError as error:
        fail(error)
    print("\n".join(_lines(verdict)))
    sys.exit(verdict.failed)


if __name__ == "__main__":
    main()
