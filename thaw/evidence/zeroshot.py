"""Zero-shot: how right the names of the classes alone are, without any training, and what training the head adds."""

from collections.abc import Sequence

import numpy as np

from thaw.artifacts import Paths
from thaw.config.schema import Evaluate
from thaw.data.manifest import Record
from thaw.evidence import comparison
from thaw.evidence.scoring import Pair
from thaw.networks import texts
from thaw.networks.outputs import Saved


def measured(
    paths: Paths, records: Sequence[Record], val: Pair, test: Pair, evaluate: Evaluate, seed: int
) -> dict[str, dict[str, float]]:
    """Return what ``figures.json`` says of zero-shot: as ``zero_shot``, the keys that ``head`` has, and more.

    ``gain`` is what the head adds to the accuracy (head - zero-shot), with its interval, and ``p`` McNemar's of that:
    as ``comparison.compare`` has them of before and after. Prompts stand in the configuration, and no image has a say
    in them.

    Args:
        paths: of the features and the class names.
        records: the manifest.
        val, test: the models' probabilities for its validation and test images.
        evaluate: how sure to be.
        seed: of the bootstrap.

    Returns:
        Nothing where no class names were asked.
    """
    if not paths.texts.exists():
        return {}
    features, weights = Saved(paths.features), np.load(paths.texts)
    pairs = []
    for split, pair in (("val", val), ("test", test)):
        rows = np.array([row for row, record in enumerate(records) if record.split == split])
        untrained = texts.probabilities(features.take(rows, view=0), weights)
        pairs.append(Pair(pair.labels, untrained, pair.before, pair.groups))
    figures = comparison.compare(*pairs, seed=seed, **evaluate.model_dump(exclude={"splits"}))
    gain = {f"gain{end}": figures["delta"][f"accuracy{end}"] for end in ("", "_low", "_high")}
    return {"zero_shot": figures["head"] | gain | {"p": figures["mcnemar_p"]}}
