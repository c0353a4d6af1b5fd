"""What the data prove: figures of both models, how sure they are, and the report that tells people.

Offers ``scoring`` (of one model), ``significance`` (intervals and tests), ``comparison`` (both models), ``forecasting``
(more images), ``story`` and ``report`` (HTML, card, plots, summary), ``verification`` (is it the committed result).
"""

__all__ = ["comparison", "forecasting", "report", "scoring", "significance", "story", "verification"]
