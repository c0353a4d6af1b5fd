"""The finished model: a folder that turns pictures into labels and probabilities, wherever it is.

Offers ``portable`` (write and use it), ``exporting`` (other formats) and ``serving`` (what MLflow runs to serve it).
"""

__all__ = ["exporting", "portable", "serving"]
