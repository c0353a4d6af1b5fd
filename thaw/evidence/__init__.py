"""What the data prove: figures of both models, how sure they are, and the report that tells people.

Offers ``scoring`` (figures of one model), ``significance`` (intervals and tests), ``comparison`` (both models),
``story`` and ``report`` (HTML, model card, plots, summary) and ``verification`` (is it still the committed result).
"""

__all__ = ["comparison", "report", "scoring", "significance", "story", "verification"]
