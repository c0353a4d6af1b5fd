"""What the data prove: figures of both models, how sure they are, and the report that tells people.

Offers ``scoring`` (of one model), ``significance`` (intervals and tests), ``comparison`` (both models), ``forecasting``
(more images), ``splits`` (others), ``story``, ``report``, ``verification`` (is it the same), ``wording`` (of figures).
"""

__all__ = [
    "comparison",
    "forecasting",
    "report",
    "scoring",
    "significance",
    "splits",
    "story",
    "verification",
    "wording",
]
