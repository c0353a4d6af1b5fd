"""What the data prove: figures of both models, how sure they are, and the report that tells people.

Offers ``scoring`` (one model), ``significance`` (intervals, tests), ``comparison`` (both), ``zeroshot``, ``slices``,
``splits``, ``forecasting``, ``story``, ``report``, ``verification`` (is it the same), ``wording``, ``plots``.
"""

__all__ = [
    "comparison",
    "forecasting",
    "plots",
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
