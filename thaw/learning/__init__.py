"""What is learnt: the head on bottleneck features, then the top of the network.

Offers ``examples`` (inputs and labels), ``heads`` and their solvers, ``crossvalidation`` of these, ``finetuning`` (the
trained part of the classifier), ``training`` (the fit loop), ``curves`` (as files, and live), ``predictions`` (files).
"""

__all__ = ["crossvalidation", "curves", "examples", "finetuning", "heads", "predictions", "training"]
