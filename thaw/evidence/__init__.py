"""What the data prove: figures of both models, how sure they are, and the report that tells people.

Offers ``scoring`` (of one model), ``significance`` (intervals, tests), ``comparison`` (both models), ``slices`` of it,
``forecasting`` (more images), ``story`` and ``report`` (HTML, card, plots, summary), ``verification`` (as committed?).
"""

__all__ = ["comparison", "forecasting", "report", "scoring", "significance", "slices", "story", "verification"]
