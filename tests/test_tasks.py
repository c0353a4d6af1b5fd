"""tasks.py: the environment that it makes, and that make says the same."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tasks
from thaw.artifacts import PROJECT


def test_make_has_the_same_commands() -> None:
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    rules = {name for line in re.findall(r"^([a-z -]+):", makefile, re.M) for name in line.split()}
    assert rules == {*tasks.TASKS, "help", "lock"}


def test_every_command_says_in_one_line_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert tasks.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [*tasks.TASKS]
    assert all(re.fullmatch(r"\S+ +[A-Z].*\.", line) for line in lines)


def test_whoever_reads_no_further_is_told_no_more() -> None:
    with subprocess.Popen(
        [sys.executable, PROJECT / "tasks.py"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as command:
        assert command.stdout is not None
        assert command.stderr is not None
        command.stdout.close()
        assert command.stderr.read() == b""


def test_an_unknown_command_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert tasks.main(["rerpo"]) == 1
    assert "repro" in capsys.readouterr().out


def test_an_unsupported_python_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(tasks, "VENV", tasks.ROOT / ".no_such_venv")
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    assert tasks.main(["setup"]) == 1
    assert capsys.readouterr().err.startswith("error: expected Python 3.11 to 3.13, found 3.10.4; name another one")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project that needs no package."""
    folder = tmp_path / "a project"
    folder.mkdir()
    shutil.copy(PROJECT / "tasks.py", folder)
    (folder / "requirements.lock").touch()
    return folder


def setup(project: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "tasks.py", "setup"],
        cwd=project,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


def test_the_environment_is_made_once_and_anew_where_the_project_was_moved(project: Path) -> None:
    assert "Installing" in setup(project).stdout
    again = setup(project)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    moved = project.rename(project.with_name("moved"))
    assert "Installing" in setup(moved).stdout, "its programs name the folder that they were in"
    found = subprocess.run(
        [moved / ".venv" / tasks.BIN.name / "pip", "--version"],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    )
    assert str(moved) in found.stdout
    before = tasks.origin(moved)
    (moved / "requirements.lock").write_text("# another one\n")
    assert tasks.origin(moved) != before, "another lock is another environment"


def test_pip_speaks_only_if_it_fails(project: Path) -> None:
    (project / "requirements.lock").write_text(f"no-such-package-of-thaw==1.0 --hash=sha256:{'0' * 64}\n")
    done = setup(project)
    assert done.returncode == 1
    assert "no-such-package-of-thaw" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: expected to install requirements.lock, found what pip says")
    assert setup(project).returncode == 1, "it is not taken for a finished one"
