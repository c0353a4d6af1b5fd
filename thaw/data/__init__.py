"""What comes in: data sets, their layouts, the manifest with its splits, and pixels.

Offers ``sources`` (bring a data set), ``versioning`` (data/ under DVC), ``files`` and ``layouts`` (what they say),
``corrections``, ``indexing`` (verify, split), ``manifest``, ``images``, ``augmentation``, ``sheets``, ``objects`` (S3).
"""

__all__ = [
    "augmentation",
    "corrections",
    "files",
    "images",
    "indexing",
    "layouts",
    "manifest",
    "objects",
    "sheets",
    "sources",
    "versioning",
]
