"""Make a job of a sweep the project's configuration: edit params.yaml and conf/, and nothing but the values.

Options are chosen by name in params.yaml; values that differ from the chosen option's file are written into that file.
Comments, order and spelling of everything else stay as they are.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thaw.artifacts import plain, read_json, write_text
from thaw.config import composing
from thaw.config.editing import edited
from thaw.errors import UserError
from thaw.sweeps.jobs import FOLDER
from thaw.sweeps.ranking import RESULT


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
    files = {composing.PARAMS: (composing.choices(), chosen | {"seed": wanted["seed"]})}
    for group, option in chosen.items():
        file = composing.CONF / group / f"{option}.yaml"
        if not file.is_file():
            raise UserError(
                f"--promote: expected the option that the job chose in conf/{group}/{option}.yaml, found no such file; "
                "restore it"
            )
        files[file] = (plain(composing.compose([f"{group}={option}"], [group]))[group], wanted[group])
    before = {file: file.read_text(encoding="utf-8") for file in files}
    after = {file: edited(before[file], old, new) for file, (old, new) in files.items()}
    _write(after)
    found = plain(composing.compose([]))
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
            f"a/{file.relative_to(composing.PARAMS.parent).as_posix()}",
            f"b/{file.relative_to(composing.PARAMS.parent).as_posix()}",
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
            write_text(file, text)
