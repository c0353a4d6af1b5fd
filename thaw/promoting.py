"""Make a job of a sweep the project's configuration: edit params.yaml and conf/, and nothing but the values.

Options are chosen by name in params.yaml; values that differ from the chosen option's file are written into that file.
Comments, order and spelling of everything else stay as they are.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from thaw import config
from thaw.artifacts import atomic, plain, read_json
from thaw.errors import UserError
from thaw.ranking import RESULT
from thaw.sweeping import FOLDER

Edit = tuple[int, int, str]  # of a text: from, to, and what comes in between


def promote(name: str) -> str:
    """Write a job's configuration into params.yaml and conf/, and return the difference (unified diff).

    Args:
        name: of the job, or its beginning.

    Raises:
        UserError: no job, or several, are called so; or an option that it chose is gone.
    """
    result = _result(name)
    chosen: dict[str, str] = result["choices"]
    wanted: dict[str, Any] = result["config"]
    files = {config.PARAMS: (config.choices(), chosen | {"seed": wanted["seed"]})}
    for group, option in chosen.items():
        file = config.CONF / group / f"{option}.yaml"
        if not file.is_file():
            raise UserError(
                f"--promote: expected the option that the job chose in conf/{group}/{option}.yaml, found no such file; "
                "restore it"
            )
        files[file] = (plain(config.compose([f"{group}={option}"], [group]))[group], wanted[group])
    before = {file: file.read_text(encoding="utf-8") for file in files}
    after = {file: edited(before[file], old, new) for file, (old, new) in files.items()}
    _write(after)
    found = plain(config.compose([]))
    if found != wanted:
        _write(before)
        raise UserError(
            f"--promote: expected params.yaml and conf/ to give the job's configuration, found another value of "
            f"{', '.join(key for key in wanted if found[key] != wanted[key])}; everything is as it was: edit it by "
            f"hand, {FOLDER.name}/jobs/{name}…/{RESULT} has the values"
        )
    return "".join(
        line
        for file in files
        for line in difflib.unified_diff(
            before[file].splitlines(keepends=True),
            after[file].splitlines(keepends=True),
            f"a/{file.relative_to(config.PARAMS.parent).as_posix()}",
            f"b/{file.relative_to(config.PARAMS.parent).as_posix()}",
            n=0,
        )
    )


def _result(name: str) -> dict[str, Any]:
    jobs = sorted(file.parent for file in (FOLDER / "jobs").glob(f"*/{RESULT}"))
    named = [job for job in jobs if job.name.startswith(name)]
    if len(named) != 1 or not name:
        raise UserError(
            f"--promote: expected the name of one of {len(jobs)} finished jobs, found {name!r}, which "
            f"{len(named) or 'none'} of them begin with; the tables in {FOLDER.name}/sweeps/*/summary.txt name them"
        )
    result: dict[str, Any] = read_json(named[0] / RESULT)
    return result


def _write(texts: Mapping[Path, str]) -> None:
    for file, text in texts.items():
        if file.read_text(encoding="utf-8") != text:
            with atomic(file) as partial:
                partial.write_text(text, encoding="utf-8")


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
