"""What the data say about themselves, and the page on which a person decides what becomes of it.

Offers ``findings`` (copies, doubtful labels, odd pictures, spurious cues, put together) and ``review`` (the page).
"""

__all__ = ["findings", "review"]
