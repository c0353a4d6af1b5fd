"""Domain adaptation without labels: BatchNorm statistics of the user's images in the place of ImageNet's.

After Li et al. 2016, "Revisiting Batch Normalization For Practical Domain Adaptation", https://arxiv.org/abs/1603.04779.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from thaw import parallel
from thaw.artifacts import atomic, cache, fingerprint
from thaw.config.schema import Backbone
from thaw.errors import UserError
from thaw.networks.backbones import FrozenNetwork, batchnorms, network
from thaw.networks.views import View, Wanted

BATCH = 64


def statistics(backbone: Backbone, wanted: Wanted, data: Path) -> Path:
    """Give the file of the means and variances that each BatchNorm of a backbone finds in the training images.

    They are computed once: one pass of the images, in batches that are normalised by themselves; the file lies in the
    cache. Of all batches together, the variance is the mean of their second moments less the square of the mean.

    Args:
        backbone: the configuration.
        wanted: what the network is shown of all images; these count as they are.
        data: their folder.

    Raises:
        UserError: the network has no BatchNorm, or its weights have none of their own statistics left.
    """
    views = [image[0] for image in wanted if image[0].record.split == "train"]
    keys = fingerprint(*(view.key for view in views))
    file = cache() / "statistics" / f"{fingerprint(FrozenNetwork(backbone).fingerprint, keys, Path(__file__))}.npz"
    if not file.exists():
        moments = _moments(backbone, views, data)
        with atomic(file) as partial_file, partial_file.open("wb") as opened:
            np.savez(opened, allow_pickle=False, **moments)
    return file


def _moments(backbone: Backbone, views: Sequence[View], data: Path) -> dict[str, Any]:
    import keras
    import tensorflow as tf

    whole = network(backbone)
    layers = batchnorms(whole)
    if not layers:
        raise UserError(
            f"batchnorm: expected BatchNorm layers to adapt, found none in {backbone.network}; set it to frozen"
        )
    if backbone.weights != "random" and not any(np.array(layer.moving_mean).any() for layer in layers):
        raise UserError(
            "batchnorm: expected weights with BatchNorm statistics of their own, found means of 0 throughout, as where "
            "they are folded into the convolutions; set it to frozen"
        )
    for layer in whole._flatten_layers():
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0  # only BatchNorm is to behave as in training
    for layer in layers:
        layer.momentum = 0.0  # so that after a batch its moving statistics are those of the batch
    run = tf.function(lambda batch: whole(batch, training=True), reduce_retracing=True)
    loaded = parallel.spread(
        partial(View.load, data=data, size=backbone.input_size, fit=backbone.fit), views, "BatchNorm statistics"
    )
    first = [np.zeros(layer.moving_mean.shape) for layer in layers]
    second = [np.zeros(layer.moving_mean.shape) for layer in layers]
    for at in range(0, len(views), BATCH):
        batch = np.stack([next(loaded) for _ in views[at : at + BATCH]])
        run(batch)
        share = len(batch) / len(views)
        for place, layer in enumerate(layers):
            mean, variance = np.array(layer.moving_mean, np.float64), np.array(layer.moving_variance, np.float64)
            first[place] += share * mean
            second[place] += share * (variance + mean**2)
    found = {f"mean_{place}": mean.astype(np.float32) for place, mean in enumerate(first)}
    pairs = enumerate(zip(first, second, strict=True))
    return found | {f"variance_{place}": (square - mean**2).astype(np.float32) for place, (mean, square) in pairs}
