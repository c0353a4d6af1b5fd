"""Runs and models in MLflow; ``python -m thaw.runs`` shows and publishes them.

Offers ``store`` (where they are), ``description`` (what a run says), ``publishing`` (of a finished pipeline) and
``registry`` (models: logged, the champion registered, fetched).
"""

__all__ = ["description", "publishing", "registry", "store"]
