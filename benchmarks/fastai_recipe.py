"""fastai's usual recipe, as its users run it, to be measured against: ``vision_learner(…).fine_tune(5)``.

Everything is fastai's default (batches of 64, its head and rates, its crop to a square, BatchNorm that learns) but for
the network: MobileNetV2 of torchvision with the weights of Keras, padded as Keras pads, so that both sides start from
the same features; that is checked. Where BatchNorm has been folded into the convolutions, fastai, which normalises by
the statistics of batches, would start from another network; so they are taken apart again first, see ``unfold``.

Imports nothing of thaw: it runs where fastai is installed. ``benchmarks.peer`` calls it:

    python -m benchmarks.fastai_recipe DATA MANIFEST NETWORK --out FILE [--alpha 1.0] [--seed 0] [--augment]
"""

import argparse
import json
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

SIZE = 160  # divides by 32: each convolution of stride 2 sees an even number of pixels, and Keras pads right and below
EPOCHS = 5  # after one of the head alone
WORKERS = 2  # processes that decode
EPSILON = 1e-3  # of BatchNorm, in Keras
AGREE = 1e-3  # features may differ by so much
Figures = dict[str, Any]


def main() -> None:
    """Be the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fastai_recipe", description="fastai's usual recipe.")
    parser.add_argument("data", type=Path, help="the images")
    parser.add_argument("manifest", type=Path, help="path, label and split of each, as prepare writes them")
    parser.add_argument("network", type=Path, help="weights, and some features to compare with: see benchmarks.peer")
    parser.add_argument("--out", type=Path, required=True, help="write the figures here as JSON")
    parser.add_argument("--alpha", type=float, default=1.0, help="width of the network")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--augment", action="store_true", help="with aug_transforms()")
    given = parser.parse_args()
    found = recipe(given.data, given.manifest, given.network, given.alpha, given.seed, given.augment)
    given.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8", newline="\n")


def recipe(data: Path, manifest: Path, network: Path, alpha: float, seed: int, augment: bool) -> Figures:
    """Run it.

    Returns:
        Accuracies, and as ``apart`` the seconds, of the clock and of processors, for what only makes both start equal.
    """
    import pandas as pd
    from fastai.vision import all as fastai
    from fastai.vision.learner import model_meta

    def architecture(pretrained: bool) -> Any:
        assert pretrained
        return keras_network(known, alpha)

    fastai.set_seed(seed)
    images = pd.read_csv(manifest, dtype=str, keep_default_na=False)
    images["valid"] = images["split"] == "val"
    train, test = (images[images["split"] == split] for split in ("train", "test"))
    loaders = fastai.ImageDataLoaders.from_df(
        images[images["split"] != "test"],
        path=data,
        fn_col="path",
        label_col="label",
        valid_col="valid",
        item_tfms=fastai.Resize(SIZE),
        batch_tfms=fastai.aug_transforms() if augment else None,
        num_workers=WORKERS,
    )
    with np.load(network) as stored:
        known = dict(stored)
    # What fastai has to know of a network that is none of its own; pixels are brought to -1..1.
    model_meta[architecture] = {"cut": -1, "split": groups, "stats": ([0.5] * 3, [0.5] * 3)}
    learner = fastai.vision_learner(loaders, architecture, metrics=fastai.accuracy)
    start = time.perf_counter(), time.process_time()
    check(learner.model[0], known)
    unfold(learner.model[0], (batch[0] for batch in loaders.test_dl(train)))
    check(learner.model[0], known)
    apart = time.perf_counter() - start[0], time.process_time() - start[1]
    with learner.no_bar():
        learner.fine_tune(EPOCHS)
        val = float(learner.recorder.values[-1][-1])
        probabilities, _ = learner.get_preds(dl=loaders.test_dl(test))
    answers = np.array(loaders.vocab)[probabilities.argmax(dim=1).numpy()]
    return {
        "test": float((answers == test["label"].to_numpy()).mean()),
        "val": val,
        "apart": apart,
        "versions": {package: version(package) for package in ("fastai", "torch")},
    }


def keras_network(known: Figures, alpha: float) -> Any:
    """torchvision's MobileNetV2 with padding, BatchNorm's epsilon and weights as in Keras."""
    import torch
    from torch import nn
    from torchvision.models import mobilenet_v2

    model = mobilenet_v2(width_mult=alpha)
    convolutions, norms = parts(model.features)
    assert len(known) == 5 * len(norms) + 2, "one convolution for each BatchNorm, and pixels and features"
    with torch.no_grad():
        for place, (convolution, norm) in enumerate(zip(convolutions, norms, strict=True)):
            norm.eps = EPSILON
            kernel, *values = (torch.from_numpy(known[f"{place}_{name}"]) for name in range(5))
            # Height × width × in × out; where each channel has its own: height × width × channels × 1.
            order = (3, 2, 0, 1) if convolution.groups == 1 else (2, 3, 0, 1)
            variables = (convolution.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var)
            for variable, value in zip(variables, (kernel.permute(order), *values), strict=True):
                assert variable.shape == value.shape
                variable.copy_(value)
    for block in [*model.features.modules()]:
        for name, layer in [*block.named_children()]:
            if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2):
                layer.padding = (0, 0)
                setattr(block, name, nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), layer))
    return model


def groups(model: Any) -> Any:
    """Which parameters share a learning rate: as in fastai's own networks three groups, the body cut at an eighth.

    Of a network that it does not know, fastai takes the whole body as one group, at a hundredth of the head's rate.
    """
    from fastai.vision import all as fastai

    return fastai.L(model[0][0][:7], model[0][0][7:], model[1]).map(fastai.params)


def parts(body: Any) -> tuple[list[Any], list[Any]]:
    """Its convolutions, and the BatchNorm behind each of them."""
    from torch import nn

    kinds = (nn.Conv2d, nn.BatchNorm2d)
    convolutions, norms = ([layer for layer in body.modules() if isinstance(layer, kind)] for kind in kinds)
    return convolutions, norms


def check(body: Any, known: Figures) -> None:
    """Be sure that pooled features of some images are what Keras makes of the same pixels."""
    import torch

    body.eval()
    with torch.no_grad():
        pixels = torch.from_numpy(known["pixels"]).permute(0, 3, 1, 2) / 127.5 - 1
        difference = np.abs(body(pixels).mean(dim=(2, 3)).numpy() - known["features"]).max()
    assert difference < AGREE, f"features differ by {difference:.2g} from those of Keras"


def unfold(body: Any, batches: Iterable[Any]) -> None:
    """Give each BatchNorm the statistics of its inputs on these images, and leave the function as it is.

    Each output of a convolution is brought to a variance of 1, as it may have had before folding; scale and offset of
    the BatchNorm behind it take that back. Weights with statistics of their own are left alone.
    """
    import torch

    convolutions, norms = parts(body)
    if any(norm.running_mean.any() for norm in norms):
        return
    sums = {norm: torch.zeros(2, norm.num_features, dtype=torch.float64) for norm in norms}

    def note(norm: Any, inputs: Any) -> None:
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)
        sums[norm] += len(inputs[0]) * torch.stack([mean, variance + mean**2]).double()

    hooks = [norm.register_forward_pre_hook(note) for norm in norms]
    images = 0
    body.eval()
    with torch.no_grad():
        for batch in batches:
            body(batch.as_subclass(torch.Tensor))  # not fastai's own kind
            images += len(batch)
        for hook in hooks:
            hook.remove()
        for convolution, norm in zip(convolutions, norms, strict=True):
            mean, square = sums[norm] / images
            deviation = (square - mean**2).clamp(min=0).sqrt()
            scale = torch.where(deviation > 1e-3, 1 / deviation, 1.0)  # but for channels that are the same everywhere
            slope = norm.weight / (norm.running_var + norm.eps).double().sqrt()
            norm.bias.add_(slope * (mean - norm.running_mean))
            norm.running_mean.copy_(scale * mean)
            norm.running_var.copy_((scale * deviation) ** 2)
            norm.weight.copy_(slope / scale * (norm.running_var + norm.eps).double().sqrt())
            convolution.weight.mul_(scale[:, None, None, None])


if __name__ == "__main__":
    main()
