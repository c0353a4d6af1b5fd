"""What the data prove: figures of both models, how sure they are, and the report that tells people.

Offers ``scoring`` (one model), ``significance`` (intervals, tests), ``comparison`` (both), ``zeroshot``, ``slices``,
``splits``, ``forecasting`` (more images), ``story``, ``report``, ``verification`` (is it the same) and ``wording``.
"""

__all__ = [
    "comparison",
    "forecasting",
    "report",
    "scoring",
    "significance",
    "slices",
    "splits",
    "story",
    "verification",
    "wording",
    "zeroshot",
]
