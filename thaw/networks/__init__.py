"""Pretrained networks: built with their weights, cut, run fast, and what they say of an image kept for ever.

Offers ``weights``, ``backbones`` (Keras), ``cutting``, ``folding``, ``smoothing``, ``engine``, ``inference``, ``views``
(what is seen), ``texts`` (read), ``features`` (the store), ``sharing`` (with other machines), ``outputs``,
``adaptation`` and ``activation`` (heat maps).
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
    "sharing",
    "smoothing",
    "texts",
    "views",
    "weights",
]
