"""What is chosen: the typed sections of params.yaml and conf/, and the way from Hydra to a stage's ``run``.

Offers ``schema`` (the sections), ``composing`` (from files and overrides to sections), ``wording`` (what a mistake in
them says) and ``editing`` (values in YAML files, comments kept).
"""

__all__ = ["composing", "editing", "schema", "wording"]
