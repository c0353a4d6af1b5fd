"""What is learnt: the head on bottleneck features, then the top of the network.

Offers ``examples``, ``heads``, their ``crossvalidation``, and on ``subsets``, ``policy`` (how deep, how long),
``finetuning``, ``lora``, ``training`` (its loop), ``curves`` and ``predictions`` (files), ``calibration`` (how sure).
"""

__all__ = [
    "calibration",
    "crossvalidation",
    "curves",
    "examples",
    "finetuning",
    "heads",
    "lora",
    "policy",
    "predictions",
    "subsets",
    "training",
]
