"""What may be wrong in the data, for a person to decide.

Offers ``review`` (the page that shows the suspects one by one, and saves what is decided).
"""

__all__ = ["review"]
