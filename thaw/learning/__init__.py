"""What is learnt: the head on bottleneck features, then the top of the network.

Offers ``examples``, ``heads``, their ``crossvalidation``, ``policy`` (how deep and how long), ``finetuning`` (of the
top), ``training`` (the loop), ``curves`` (files, and live), ``predictions`` (files), ``calibration`` (how sure).
"""

__all__ = [
    "calibration",
    "crossvalidation",
    "curves",
    "examples",
    "finetuning",
    "heads",
    "policy",
    "predictions",
    "training",
]
