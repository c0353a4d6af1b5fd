"""What comes in: data sets, their layouts, the manifest with its splits, and pixels.

Offers ``sources`` (bring a data set), ``versioning`` (data/ under DVC), ``layouts`` (what one says of its files),
``indexing`` (verify, split), ``manifest`` (what all stages share), ``images``, ``augmentation`` and contact ``sheets``.
"""

__all__ = ["augmentation", "images", "indexing", "layouts", "manifest", "sheets", "sources", "versioning"]
