"""Many configurations: searched, each computed as little as possible, ranked, and the winner promoted.

Offers ``running`` (a sweep, for Hydra), ``search`` (which jobs to try), ``jobs`` (what they leave), ``probe`` (judge a
backbone's features) and ``promotion`` (of a winner).
"""

__all__ = ["jobs", "probe", "promotion", "running", "search"]
