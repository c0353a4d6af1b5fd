"""Pretrained networks: built with their weights, cut, run fast, and what they say of an image kept for ever.

Offers ``weights``, ``backbones`` (Keras graphs), ``cutting`` (where to split them), ``engine`` and ``inference`` (run
them), ``views`` (what they are shown), ``features`` (the store), ``outputs`` (arrays) and ``adaptation`` (BatchNorm).
"""

__all__ = ["adaptation", "backbones", "cutting", "engine", "features", "inference", "outputs", "views", "weights"]
