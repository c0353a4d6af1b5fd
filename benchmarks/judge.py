"""Which of head and fine-tuned model to keep: rules for that, judged on images that had no say.

    python -m benchmarks.judge --weights FILE [--seeds 0,1,2] NAME=FOLDER ...

The pipeline's own stages run with MobileNetV2 of FILE, as do the 18 heads of experiment=heads. Then the validation and
test images, of which no model has learnt, are divided anew again and again: one part chooses the best head, as a sweep
does, and a rule keeps it or the fine-tuned model; the other part says which was better. A head that was chosen flatters
where it was chosen; a rule is good if it is not taken in. Prints a table (Markdown) for docs/architecture.md.
"""

import argparse
import contextlib
import io
import itertools
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.accuracy import numbers, run
from benchmarks.results import part
from stages import extract_features, finetune, prepare, train_head
from thaw.artifacts import Paths, cache, fingerprint, read_json
from thaw.config.composing import compose
from thaw.data import manifest
from thaw.learning import calibration, examples, predictions

POLICIES = {"auto": ["finetune=auto"], "last 3 blocks": ["finetune=last_3_blocks"]}
HEADS = [  # those of conf/experiment/heads.yaml
    [f"train_head={kind}", f"train_head.learning_rate={rate}", f"train_head.dropout={dropout}"]
    for kind, rate, dropout in itertools.product(("adam", "mlp"), (0.003, 0.001, 0.0003), (0.0, 0.2, 0.5))
]
DIVISIONS = 200
Probabilities = NDArray[np.floating[Any]]
Labels = NDArray[np.int64]


def main() -> None:
    """Be the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.judge", description="Which model to keep.")
    parser.add_argument("data", nargs="+", metavar="NAME=FOLDER", help="folders of images, one for each class")
    parser.add_argument("--weights", type=Path, required=True, help="of MobileNetV2 without its top")
    parser.add_argument("--seeds", type=numbers, default=[0, 1, 2])
    given = parser.parse_args()
    folder = cache() / "benchmarks" / "judge"
    found: dict[str, list[Mapping[str, Any]]] = {policy: [] for policy in POLICIES}
    for name, _, data in (one.partition("=") for one in given.data):
        images = part(Path(data).absolute(), folder / "data" / name)
        for seed in given.seeds:
            answers = ask(folder, images, given.weights.absolute(), seed)
            for policy in POLICIES:
                found[policy].append(divide(*answers, policy, seed))
                print(f"{name}, seed {seed}, {policy}: {found[policy][-1]}", flush=True)
    print(render(found))


def ask(folder: Path, data: Path, weights: Path, seed: int) -> tuple[Labels, dict[str, Probabilities]]:
    """The labels of all validation and test images, and what each model says of them; each is trained once."""
    network = ["backbone=mobilenet_v2", f"backbone.weights={weights}", "backbone.input_size=160", "augment=none"]
    choices = ["dataset=folder", *network, f"seed={seed}"]
    config = compose([*choices, "train_head=lbfgs"])
    paths = Paths(data, folder / fingerprint(str(data), *config.values()))
    wanted = [("train_head", choice) for choice in HEADS] + [("finetune", choice) for choice in POLICIES.values()]
    said: dict[str, Probabilities] = {}
    for stage, choice in wanted:
        made = paths.root / f"{stage}-{fingerprint(*choice)}.csv"
        if not made.exists():
            with contextlib.redirect_stdout(io.StringIO()):
                if not paths.features.exists():
                    run(paths, config, prepare, extract_features)
                if stage == "finetune":
                    run(paths, config, train_head)  # from the default head, whichever was trained last
                run(paths, compose([*choices, *choice]), train_head if stage == "train_head" else finetune)
            paths.probabilities(stage).rename(made.with_suffix(".npy"))
            paths.predictions(stage).rename(made)
        said[" ".join(choice)] = predictions.read(made).probabilities
    records = [record for record in manifest.read(paths.manifest) if record.split != "train"]
    return examples.labels(records, read_json(paths.classes)), said


def divide(labels: Labels, said: Mapping[str, Probabilities], policy: str, seed: int) -> dict[str, Any]:
    """For each rule: how often it keeps the better model, and the accuracy (percent) of what it keeps."""
    heads = [said[" ".join(choice)] for choice in HEADS]
    tuned = said[" ".join(POLICIES[policy])]
    random = np.random.default_rng(seed)
    kept: dict[str, list[float]] = {rule: [] for rule in [*RULES, "both, averaged"]}
    better: dict[str, list[bool]] = {rule: [] for rule in RULES}
    for _ in range(DIVISIONS):
        order = random.permutation(len(labels))
        judges, others = order[: len(order) // 2], order[len(order) // 2 :]
        head = best(labels, heads, judges)
        accuracies = [right(labels, one, others) for one in (head, tuned)]
        for rule, keeps in RULES.items():
            choice = int(keeps(labels, heads, tuned, judges))
            kept[rule].append(accuracies[choice])
            better[rule].append(accuracies[choice] == max(accuracies))
        kept["both, averaged"].append(right(labels, (head + tuned) / 2, others))
    return {
        "kept": {rule: round(100 * float(np.mean(values)), 2) for rule, values in kept.items()},
        "better": {rule: round(100 * float(np.mean(values)), 1) for rule, values in better.items()},
    }


def right(labels: Labels, probabilities: Probabilities, which: Labels) -> float:
    """The accuracy on some of the images."""
    return float((probabilities[which].argmax(axis=1) == labels[which]).mean())


def best(labels: Labels, heads: list[Probabilities], which: Labels) -> Probabilities:
    """The head with the highest accuracy on some of the images."""
    return max(heads, key=lambda one: right(labels, one, which))


def _by_accuracy(labels: Labels, heads: list[Probabilities], tuned: Probabilities, judges: Labels) -> bool:
    return right(labels, tuned, judges) >= right(labels, best(labels, heads, judges), judges)


def _by_score(
    labels: Labels, heads: list[Probabilities], tuned: Probabilities, judges: Labels, errors: float = 0
) -> bool:
    """By so many ``errors`` of the mean of the differences, image by image, the fine-tuned one has to be better."""
    gain = _scores(labels, best(labels, heads, judges), judges) - _scores(labels, tuned, judges)
    return bool(gain.mean() > errors * gain.std() / math.sqrt(len(judges)))


def _by_halves(labels: Labels, heads: list[Probabilities], tuned: Probabilities, judges: Labels) -> bool:
    """Each half of the judges is asked of the head that the other half has chosen."""
    halves, of_heads = (judges[::2], judges[1::2]), 0.0
    for chooses, judge in (halves, halves[::-1]):
        of_heads += float(_scores(labels, best(labels, heads, chooses), judge).sum())
    return sum(float(_scores(labels, tuned, half).sum()) for half in halves) < of_heads


def _scores(labels: Labels, probabilities: Probabilities, which: Labels) -> Probabilities:
    return calibration.calibrated_brier_scores(labels[which], probabilities[which])


RULES: dict[str, Callable[[Labels, list[Probabilities], Probabilities, Labels], bool]] = {
    "the head, always": lambda *_: False,
    "the fine-tuned one, always": lambda *_: True,
    "higher accuracy": _by_accuracy,
    "lower calibrated Brier score": _by_score,
    "the fine-tuned one, but where its score is higher by a standard error": partial(_by_score, errors=-1),
    "the head, but where its score is higher by a standard error": partial(_by_score, errors=1),
    "lower calibrated Brier score, the head chosen by the other half": _by_halves,
}


def render(found: Mapping[str, list[Mapping[str, Any]]]) -> str:
    """Lay out the table (Markdown)."""
    lines = ["| rule | " + " | ".join(f"{one}: keeps the better | accuracy" for one in found) + " |"]
    lines.append("|---" * (1 + 2 * len(found)) + "|")
    for rule in [*RULES, "both, averaged"]:
        cells = [rule]
        for runs in found.values():
            cells.append(f"{np.mean([one['better'][rule] for one in runs]):.1f}%" if rule in RULES else "")
            cells.append(f"{np.mean([one['kept'][rule] for one in runs]):.2f}%")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
