"""What comes in: data sets, their layouts, the manifest with its splits, and pixels.

Offers ``sources`` (bring a data set), ``versioning`` (data/ under DVC), ``layouts`` (what a folder says of its files),
``indexing`` (verify and split), ``manifest`` (the index that all stages share), ``images`` and ``augmentation``.
"""

__all__ = ["augmentation", "images", "indexing", "layouts", "manifest", "sources", "versioning"]
