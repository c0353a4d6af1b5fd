"""Pretrained networks: built with their weights, cut, run fast, and what they say of an image kept for ever.

Offers ``weights``, ``backbones`` (Keras), ``cutting``, ``folding``, ``smoothing``, ``engine``, ``inference``, ``views``
(what is seen), ``texts`` (read), ``features`` (the store), ``outputs``, ``adaptation`` and ``activation`` (heat maps).
"""

__all__ = [
    "activation",
    "adaptation",
    "backbones",
    "cutting",
    "engine",
    "features",
    "folding",
    "inference",
    "outputs",
    "smoothing",
    "texts",
    "views",
    "weights",
]
