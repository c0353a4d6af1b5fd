"""How deep, how fast and how long to fine-tune: as it was set by hand, or found from the data at hand.

By hand there is one rung. ``auto`` climbs a ladder, of one rung in most cases: each goes deeper and starts from the
best model so far. After each, validation is asked which share of the new weights to keep; where that is none, it was
the last rung. So all data get the same long step, and go back as far as theirs ask for. Counts and figures
decide, and never the clock, so that the same data and seed give the same model.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from thaw.config.schema import Auto, Backbone, Finetune, Unfreeze
from thaw.learning import calibration
from thaw.learning.examples import Examples
from thaw.learning.training import Rung, Validation, Weights, sensitivity, weights
from thaw.networks import cutting
from thaw.networks.inference import softmax

# Of each effort: the rungs, as the share of the network's blocks that is trained, and the fewest and most steps.
LADDERS = {
    "quick": ((1 / 3, 65, 125),),
    "normal": ((1 / 2, 125, 400),),
    "thorough": ((1 / 2, 125, 400), (1, 300, 400)),
}
BUDGET = 6e11  # multiplications of a rung, forwards: what buys the most steps for a narrow network on small images
EPOCHS = (2, 20)  # of a rung, at least and at most: few images are not learnt by heart, and of many none is left out
CHANGE = 4.0  # what Adam's first step would change the logits by (nats, root mean square) at the highest rate
RATES = (1e-5, 2e-3)  # within which that has to be
TRAVEL = 0.08  # the highest rate times the steps, at least: where steps have to be small, there are more of them
WARMUP = 50  # steps: without, Adam's first ones, as large as the rate whatever the gradient, tear up what was learnt
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the weights after a rung that are tried, the rest from before it
WORSE = 1.0  # standard errors by which what is kept of a rung may be worse than nothing: a hill is higher, chance not

Tried = dict[str, Any]


def rungs(config: Finetune | Auto, model: Any, backbone: Backbone, images: int) -> list[Rung]:
    """The stretches of training, each as deep as the one before or deeper, for so many training images."""
    if isinstance(config, Finetune):
        steps = config.epochs * math.ceil(images / config.batch_size)
        return [Rung(config.unfreeze, config.learning_rate, round(config.warmup * steps), steps, config.batch_size)]
    ladders = {effort: _ladder(config, model, backbone, images, effort) for effort in LADDERS}
    work = {effort: sum(cost for _, cost in ladder) for effort, ladder in ladders.items()}
    others = [
        f"{effort} {work[effort] / work[config.effort]:.1f} times" for effort in LADDERS if effort != config.effort
    ]
    print(f"  effort: {config.effort} ({', '.join(others)} the work)", flush=True)
    return [rung for rung, _ in ladders[config.effort]]


def _ladder(config: Auto, model: Any, backbone: Backbone, images: int, effort: str) -> list[tuple[Rung, int]]:
    """The rungs of an effort, each with the multiplications it takes (forwards)."""
    epoch, found = math.ceil(images / config.batch_size), []
    for share, fewest, most in LADDERS[effort]:
        top = _top(model, backbone, share)
        cost = config.batch_size * multiplications(model, cutting.first_layer(model, backbone, top))
        affordable = min(max(round(BUDGET / cost), fewest), most)
        steps, longest = (min(max(one, EPOCHS[0] * epoch), EPOCHS[1] * epoch) for one in (affordable, most))
        rung = Rung(top, None, _warmup(steps), steps, config.batch_size, longest)
        found.append((rung, steps * cost))
    return found


def _warmup(steps: int) -> int:
    """The steps of a rung in which its rate rises."""
    return min(WARMUP, steps // 3)


def paced(rung: Rung, config: Finetune | Auto, model: Any, train: Examples, seed: int, story: dict[str, Any]) -> Rung:
    """A rung with its rate: as it was set, or such that a step changes what the model says by as much everywhere.

    The same rate is gentle to one network and tears up another: it depends on the weights' sizes, on what BatchNorm
    multiplies them by, on depth and shortcuts. How far a step moves the output takes all that in (Milsom et al. 2025,
    "Function-Space Learning Rates", arXiv:2502.17405, who give each layer a rate of its own).

    Where the rate has to be low, the same steps would not lead as far: so there are more of them, up to the most.

    Args:
        rung: what is to be done.
        config: of it.
        model: the part that it trains.
        train: the training images.
        seed: of those that are asked.
        story: keeps the rate, for a run that goes on in the middle of the rung.
    """
    if rung.learning_rate is None:
        if not story["steps"]:
            moved = sensitivity(model, train, rung.batch_size, config.label_smoothing, seed)
            rate = CHANGE / min(max(moved, CHANGE / RATES[1]), CHANGE / RATES[0])
            story["rate"] = float(f"{rate:.1e}")  # of two digits: the rest would be rounding
        steps = max(rung.steps, min(round(TRAVEL / story["rate"]), rung.most))
        rung = replace(rung, learning_rate=story["rate"], steps=steps, warmup=_warmup(steps))
    print(f"  {plain(rung)}", flush=True)
    return rung


def multiplications(model: Any, first: int) -> int:
    """How many a model needs for an image from its ``first``-th layer on: each weight once for each place of a map."""
    return sum(
        # What a layer does not say beforehand, as Swin's first one does not, is little.
        math.prod(weight.shape) * math.prod(side or 1 for side in cutting.output(model, layer).shape[1:-1])
        for layer in model.layers[first:]
        for weight in layer.weights
        if len(weight.shape) > 1
    )


def _top(model: Any, backbone: Backbone, share: float) -> Unfreeze:
    """A share of a network, counted from its output, in blocks, or in layers if it has none that we know."""
    if share == 1:
        return Unfreeze(all=True)
    if blocks := len(cutting.blocks(model, backbone)):
        return Unfreeze(blocks=max(1, math.floor(share * blocks)))
    first, above = cutting.span(model)
    return Unfreeze(layers=max(1, math.floor(share * (above - first))))


def settle(model: Any, before: Weights, val: Validation, rung: Rung) -> Tried:
    """Ask validation what to keep of a rung; leave the model with that.

    On the line between the weights before and after there often is a better model, and one that is more robust
    (WiSE-FT, Wortsman et al. 2022, arXiv:2109.01903). ``SHARES`` of the way are tried, and their mean is taken, each
    weighted by e to the power of minus the Brier scores of the validation images, summed, at the temperature that suits
    it best (the weights that serve best for this score: Vovk and Zhdanov 2009, arXiv:0710.0485). That is the best of
    them where the images are many. Where they are few, several are about as good; to take the best would be to let
    chance choose, and to take nothing that is not surely better would be to lose most of what there is to gain. Only
    where the mean is worse than nothing by more than noise, as on a hill between two good places, all is taken back.

    Args:
        model: the part that was trained, as it is after the rung.
        before: its weights before.
        val: to choose by.
        rung: what was done.

    Returns:
        What was ``done``, the ``images`` that were seen for it, the ``share`` of the new weights that is kept (0 for
        none), and what was ``found``: for each share that was tried, the lowest first, the ``brier`` score, its
        difference from that at 0 and the standard error of this (``change``, ``error``), and the ``accuracy``.
    """
    after = weights(model)

    def take(share: float) -> Any:
        for variable, old, new in zip(model.trainable_variables, before, after, strict=True):
            variable.assign(share * new + (1 - share) * old)
        return model

    asked = {share: judge(take(share), val) for share in SHARES}
    likely = softmax(np.array([[-scores.sum() for scores, _ in asked.values()]]))[0]
    mean = round(float(likely @ SHARES), 2)
    if mean not in asked:
        asked[mean] = judge(take(mean), val)
    start, found = asked[0.0][0], {}
    for share, (scores, accuracy) in sorted(asked.items()):
        change = scores - start
        error = change.std() / math.sqrt(len(scores))
        figures = {"brier": scores.mean(), "change": change.mean(), "error": error, "accuracy": accuracy}
        found[share] = {"share": share} | {key: float(value) for key, value in figures.items()}
    kept = mean if found[mean]["change"] <= WORSE * found[mean]["error"] else 0.0
    take(kept)
    print(
        f"  {kept:.0%} of the change is kept (validation, Brier score {found[0.0]['brier']:.4f} → "
        f"{found[mean]['brier']:.4f})",
        flush=True,
    )
    images = rung.steps * rung.batch_size
    return {"done": plain(rung), "images": images, "share": kept, "found": [*found.values()]}


def outcome(story: Mapping[str, Any]) -> str:
    """Say what a fine-tuning came to on validation."""
    after = story["rows"][-1]["val_accuracy"]
    if story["tried"]:
        last = story["tried"][-1]
        after = next(one["accuracy"] for one in last["found"] if one["share"] == last["share"])
    return f"validation accuracy {story['rows'][0]['val_accuracy']:.4f} → {after:.4f}"


def plain(rung: Rung) -> str:
    """Say in words what is done in a rung."""
    return f"{depth(rung.unfreeze)}, {rung.steps:,} steps at up to {rung.learning_rate:g}"


def depth(unfreeze: Unfreeze) -> str:
    """Say in words how much is unfrozen."""
    if unfreeze.all:
        return "all layers"
    return f"the last {unfreeze.blocks} blocks" if unfreeze.blocks else f"the last {unfreeze.layers} layers"


def judge(model: Any, val: Validation) -> tuple[Any, float]:
    """What models are chosen by, of each image, see ``calibration.calibrated_brier_scores``; and the accuracy."""
    probabilities = softmax(val.logits(model).astype(np.float64))
    accuracy = float((probabilities.argmax(axis=1) == val.y).mean())
    return calibration.calibrated_brier_scores(val.y, probabilities), accuracy
