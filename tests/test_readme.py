"""README and docs: what they name exists, and a stranger's first two commands work in an empty directory."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from thaw.artifacts import PROJECT
from thaw.config import SECTIONS, compose

PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md")), PROJECT / "weights" / "README.md"]
README = PAGES[0].read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(PROJECT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(PROJECT).as_posix())
def test_every_command_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    modules = set(re.findall(r"python -m ((?:stages|thaw|tools|benchmarks)\.\w+)", text))
    targets = set(re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)", text, re.M))
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    assert [module for module in modules if importlib.util.find_spec(module) is None] == []
    assert [target for pair in targets for target in pair if target and f"\n{target}:" not in makefile] == []


def test_the_table_of_options_is_what_conf_holds() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (`.*?`) \|", README, re.M))
    found = {choice: sorted(re.findall(r"`(\w+)`", options)) for choice, options in rows.items() if choice in SECTIONS}
    expected = {
        choice: sorted(path.stem for path in (PROJECT / "conf" / choice).glob("*.yaml"))
        for choice in SECTIONS
        if choice != "seed"
    }
    assert found == expected


def test_every_value_that_readme_sets_is_valid() -> None:
    assignments = re.findall(r"-S (\S+)", README)
    assert assignments
    for assignment in assignments:
        key, _, values = assignment.partition("=")
        file = re.fullmatch(r"conf/(\w+)/(\w+)\.yaml:(\S+)", key)
        for value in values.split(","):
            compose([f"{file[1]}={file[2]}", f"{file[1]}.{file[3]}={value}"] if file else [f"{key}={value}"])


@pytest.mark.slow
def test_a_stranger_s_first_commands_work(tmp_path: Path) -> None:
    """Clone into an empty directory, install from the lock, run the sample twice."""
    clone = tmp_path / "thaw"
    subprocess.run(["git", "clone", "--quiet", PROJECT, clone], check=True)
    dropped = ("THAW_", "MLFLOW_", "VIRTUAL_ENV", "PYTEST_", "COV_", "PYTHON")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}

    def make(target: str) -> str:
        command = ["make", target, f"PYTHON={sys.executable}"]
        done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return done.stdout

    first = make("repro")
    assert re.search(r"380 test images +accuracy +95% interval", first)
    assert "before (head only)" in first
    second = make("repro")
    assert "Running stage" not in second
    assert "Nothing has changed since then" in second
    changed = subprocess.run(["git", "status", "--short"], cwd=clone, capture_output=True, text=True, check=True).stdout
    # The lock of this machine may differ from that of the machine it was committed on; nothing else may.
    assert changed.split() in ([], ["M", "dvc.lock"])
