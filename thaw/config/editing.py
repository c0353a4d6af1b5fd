"""Change values in a YAML file as a person would: comments, order and spelling of everything else stay as they are."""

from collections.abc import Mapping
from typing import Any

import yaml

Edit = tuple[int, int, str]  # of a text: from, to, and what comes in between


def edited(text: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Change values in a YAML file of ``key: value`` lines, and nothing else.

    Args:
        text: the file.
        old: what it says.
        new: what it is to say. Keys that the file lacks come at its end, those that are not wanted go with their line.

    Returns:
        The new text. A value that keeps its place keeps its comment; one whose own keys differ loses those inside it.
    """
    edits = _edits(text, yaml.compose(text), old, new)
    for begin, end, value in sorted(edits, reverse=True):
        text = text[:begin] + value + text[end:]
    missing = [key for key in new if key not in old and key not in _entries(yaml.compose(text))]
    lines = [f"{key}: {_flow(new[key])}\n" for key in missing]
    return (text if text.endswith("\n") or not lines else f"{text}\n") + "".join(lines)


def _edits(text: str, node: Any, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Edit]:
    """Find what has to change in a mapping."""
    found: list[Edit] = []
    for key, (name, value) in _entries(node).items():
        if key not in new:
            if key in old:
                begin = text.rfind("\n", 0, name.start_mark.index) + 1
                found.append((begin, _line_end(text, _end(value)) + 1, ""))
        elif isinstance(value, yaml.MappingNode) and _same_keys(value, new[key]):
            found += _edits(text, value, old[key], new[key])
        elif old.get(key) != new[key]:
            end = _end(value) if _is_flow(value) else _line_end(text, _end(value))
            found.append((value.start_mark.index, end, _flow(new[key])))
    return found


def _entries(node: Any) -> dict[str, tuple[Any, Any]]:
    return {name.value: (name, value) for name, value in node.value}


def _same_keys(node: Any, value: Any) -> bool:
    return isinstance(value, Mapping) and {*_entries(node)} == {*map(str, value)}


def _is_flow(node: Any) -> bool:
    return isinstance(node, yaml.ScalarNode) or bool(node.flow_style)


def _end(node: Any) -> int:
    """Where a value ends: of what is indented, where its last value does."""
    if _is_flow(node):
        return int(node.end_mark.index)
    last = node.value[-1]
    return _end(last[1] if isinstance(node, yaml.MappingNode) else last)


def _line_end(text: str, index: int) -> int:
    end = text.find("\n", index)
    return len(text) if end < 0 else end


def _flow(value: Any) -> str:
    """Write a value as one line of YAML."""
    return (
        yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True).removesuffix("...\n").strip()
    )
