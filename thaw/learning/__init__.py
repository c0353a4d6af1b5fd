"""What is learnt: the head on bottleneck features, then the top of the network.

Offers ``examples`` (inputs and labels), ``heads`` and their solvers, ``finetuning`` (the classifier, and the part of it
that is trained), ``training`` (the fit loop), ``curves`` (as files, and live) and ``predictions`` (as files).
"""

__all__ = ["curves", "examples", "finetuning", "heads", "predictions", "training"]
