"""Figures in the words and digits of the report, the card and the summary."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thaw.evidence import comparison


def keeping(metrics: Mapping[str, Any]) -> str:
    """Say which model is kept, and why."""
    name = {"head": "the head alone", "finetuned": "the fine-tuned model"}[metrics["kept"]]
    before, after = (percent(metrics[model]["val_accuracy"]) for model in ("head", "finetuned"))
    if not comparison.is_tuned(metrics):
        return f"{name} (validation accuracy {before})"
    return f"{name} (validation accuracy {before} before, {after} after)"


def percent(value: float) -> str:
    """Return a share as a percentage."""
    return f"{value:.1%}"


def points(value: float) -> str:
    """Return a difference of shares in percentage points, with its sign unless it rounds to zero."""
    return minus(f"{100 * value:+.1f}") if abs(value) >= 0.0005 else "0.0"


def p_value(value: float) -> str:
    """Return a p-value to three decimals, or its order of magnitude."""
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}".replace("e-0", "e-")


def plain(value: Any) -> str:
    """Return a configured value as people write it; of an absolute path, the last part only."""
    if isinstance(value, list):
        return ", ".join(map(plain, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(inner)}" for key, inner in value.items() if inner is not None)
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else str(value)


def minus(text: str) -> str:
    """Return a number with the sign that people print."""
    return text.replace("-", "−")
