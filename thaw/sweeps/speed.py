"""What an image costs a network, measured on this machine when a sweep of backbones has ended.

Times are in no output of a stage, whose bytes are the same in every run. They are measured anew each time, one network
after the other while no job is at work, so that they can be compared with each other and with no other sweep's.
"""

import time
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from thaw.config.schema import Backbone
from thaw.networks import engine
from thaw.networks.backbones import FrozenNetwork

IMAGES = 32  # to be timed together: as many, or as the engine fills its batches up to
LEAST, SECONDS = 3, 1.0  # times, and how long at least


def milliseconds(backbones: Sequence[Backbone]) -> list[float]:
    """Return how long an image is in each network, in milliseconds; each network is measured once.

    Raises:
        UserError: a network is no longer in the cache, nor are its weights on this machine.
    """
    networks = {one.fingerprint: one for one in map(FrozenNetwork, backbones)}
    bar = tqdm(networks.items(), "milliseconds an image", disable=None, leave=False, unit="network")
    found = {key: _milliseconds(network) for key, network in bar}
    return [found[FrozenNetwork(backbone).fingerprint] for backbone in backbones]


def _milliseconds(network: FrozenNetwork) -> float:
    """Time the network alone, as extraction runs it: noise in memory, so no decoding, no disk and no feature store.

    The first time is not counted, of the others the median.
    """
    runner = engine.start(network)
    side, count = runner.input_size, max(IMAGES, runner.batch)
    images = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    outs = [np.empty((count, *shape), np.float32) for shape in runner.shapes]
    runner.run(images, outs)
    times: list[float] = []
    while len(times) < LEAST or sum(times) < SECONDS:
        began = time.perf_counter()
        runner.run(images, outs)
        times.append(time.perf_counter() - began)
    return 1000 * float(np.median(times)) / count
