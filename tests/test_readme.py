"""README and docs: what they name exists, and a stranger's first two commands work in an empty directory."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tasks
from thaw.artifacts import PROJECT
from thaw.config.composing import compose
from thaw.config.schema import SECTIONS

PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md")), PROJECT / "weights" / "README.md"]
README = PAGES[0].read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(PROJECT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_page_is_found_from_readme() -> None:
    found, waiting = set(), {PAGES[0]}
    while waiting:
        page = waiting.pop()
        found.add(page)
        links = re.findall(r"\]\((?!https?:)([^)#]+\.md)", page.read_text(encoding="utf-8"))
        waiting |= {(page.parent / link).resolve() for link in links} - found
    assert found == {*PAGES}


def test_readme_is_read_in_one_go() -> None:
    assert len(README.splitlines()) <= 160


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(PROJECT).as_posix())
def test_every_command_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    modules = set(re.findall(r"python -m ((?:stages|thaw|tools|benchmarks)\.\w+)", text))
    targets = set(re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)", text, re.M))
    assert [module for module in modules if importlib.util.find_spec(module) is None] == []
    assert [target for pair in targets for target in pair if target and target not in {*tasks.TASKS, "lock"}] == []


def test_the_table_of_options_is_what_conf_holds() -> None:
    choices = (PROJECT / "docs" / "choices.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (`.*?`) \|", choices, re.M))
    found = {choice: sorted(re.findall(r"`(\w+)`", options)) for choice, options in rows.items() if choice in SECTIONS}
    expected = {
        choice: sorted(path.stem for path in (PROJECT / "conf" / choice).glob("*.yaml"))
        for choice in SECTIONS
        if choice != "seed"
    }
    assert found == expected


def test_every_value_that_readme_sets_is_valid() -> None:
    assignments = [found for page in PAGES for found in re.findall(r"-S (\S+)", page.read_text(encoding="utf-8"))]
    assignments = [one for one in assignments if one.strip("…`")]
    assert assignments
    for assignment in assignments:
        key, _, values = assignment.partition("=")
        file = re.fullmatch(r"conf/(\w+)/(\w+)\.yaml:(\S+)", key)
        for value in values.split(","):
            compose([f"{file[1]}={file[2]}", f"{file[1]}.{file[3]}={value}"] if file else [f"{key}={value}"])


def pythons() -> dict[str, str]:
    """The oldest and the newest Python of those that the project supports, if on this machine: version and program.

    The one that runs the tests is left out: it was installed from the lock for them, and ``test_first_photos`` runs the
    sample with it.
    """
    found = {}
    for oldest_or_newest in sorted({tasks.OLDEST, tasks.NEWEST} - {sys.version_info[:2]}):
        version = "{}.{}".format(*oldest_or_newest)
        installed = sorted(Path("~/.pyenv/versions").expanduser().glob(f"{version}.*/bin/python"))
        for program in (shutil.which(f"python{version}"), *map(str, reversed(installed))):
            told = [program, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
            if (
                program
                and subprocess.run(told, capture_output=True, text=True, encoding="utf-8", check=False).stdout.strip()
                == version
            ):
                found[version] = program
                break
    return found


# What depends on the Python that it runs on: networks are converted, exported and served; one of each kind is enough.
CLOSE_TO_PYTHON = (
    ("tests/thaw/networks/test_engine.py", "-m", "not slow"),
    ("tests/stages/test_export.py", "tests/test_serving.py", "-k", "not keras_hub"),
)


@pytest.mark.slow
@pytest.mark.timeout(2700)  # with what it installs
@pytest.mark.parametrize(("version", "program"), pythons().items(), ids=pythons())
def test_a_stranger_s_first_commands_work(
    version: str, program: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Clone into an empty directory, install, run the sample twice, verify it, and test what is close to Python."""
    clone = tmp_path / "thaw"
    subprocess.run(["git", "clone", "--quiet", PROJECT, clone], check=True)
    dropped = ("THAW_", "MLFLOW_", "VIRTUAL_ENV", "PYTEST_", "COV_", "PYTHON")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=clone, env=environment, capture_output=True, text=True, encoding="utf-8", check=False
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return done.stdout

    try:
        first = run("make", "repro", f"PYTHON={program}")
        with capfd.disabled():
            print(f"\nmake repro with Python {version}:\n{first}", file=sys.stderr)  # stdout is lost beside other tests
        assert re.search(r"380 test images +accuracy +95% interval", first)
        assert "before (head only)" in first
        assert "Compared with the committed result: the same" in first
        second = run("make", "repro", f"PYTHON={program}")
        assert "Running stage" not in second
        assert "Nothing has changed since then" in second
        run("make", "verify", f"PYTHON={program}")
        changed = run("git", "status", "--short").splitlines()
        # On other machines than the one it was committed on, the result may differ by rounding; nothing else may.
        assert [line for line in changed if not line.startswith((" M dvc.lock", " M artifacts/evaluate/"))] == []
        if version == "{}.{}".format(*tasks.NEWEST):  # what the newest runs, those between do
            for tests in CLOSE_TO_PYTHON:
                run(program, "tasks.py", "test-all", *tests)
    finally:
        shutil.rmtree(clone / ".venv", ignore_errors=True)  # gigabytes
