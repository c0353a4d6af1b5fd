"""The project's commands on every system: ``python tasks.py`` lists them; where there is make, ``make X`` is the same.

Needs nothing but Python: everything runs in .venv, which is made from requirements.lock when it is needed.
"""

import hashlib
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN, PROGRAM = (VENV / "Scripts", "python.exe") if os.name == "nt" else (VENV / "bin", "python")
OLDEST, NEWEST = (3, 11), (3, 13)
# Three tests at a time, as many wait for a program on one core; neighbours stay together and share what is made once.
PYTEST = ("-m", "pytest", "-n", "3", "--dist", "worksteal")

Arguments = list[str]


def repro(arguments: Arguments) -> int:
    """Bring the sample if data/ is missing, run what has changed, show the result."""
    if not (ROOT / "data").exists() and python("-m", "dvc", "checkout", "--quiet", "data.dvc", quiet=True):
        python("-m", "stages.get_data", "digits", check=True)
    if arguments or python("-m", "dvc", "status", "--quiet", quiet=True):
        python("-m", "dvc", "repro", *arguments, check=True)
    else:
        print((ROOT / "artifacts" / "evaluate" / "summary.txt").read_text(encoding="utf-8"), end="")
        print("Nothing has changed since then: this is the same result.", flush=True)
        python("-m", "thaw.runs", "publish")  # whoever has pulled it has no run of it yet
    python("-m", "thaw.evidence.verification")
    return 0


def data(arguments: Arguments) -> int:
    """Take your own photos: a folder with one folder for each class."""
    return python("-m", "stages.get_data", "folder", *arguments)


def verify(arguments: Arguments) -> int:
    """Compare the result with the committed one: the same, within rounding, or why not."""
    if python("-m", "dvc", "status", "--quiet", quiet=True):
        return fail("expected results that are up to date, found changes since; run 'make repro' first")
    return python("-m", "thaw.evidence.verification", *arguments)


def ui(arguments: Arguments) -> int:
    """Open the MLflow UI with all runs on http://127.0.0.1:5000."""
    return python("-m", "thaw.runs", "ui", *arguments)


def preview(arguments: Arguments) -> int:
    """Show what augmentation does to your images: artifacts/preview.png."""
    return python("-m", "stages.preview", *arguments)


def test(arguments: Arguments) -> int:
    """Run the fast tests, at most 10 minutes on 2 cores."""
    return python(*PYTEST, "-m", "not slow", *arguments)


def test_all(arguments: Arguments) -> int:
    """Run all tests."""
    return python(*PYTEST, *arguments)


def lint(_: Arguments) -> int:
    """Run ruff and mypy."""
    return python("-m", "ruff", "check", ".") or python("-m", "ruff", "format", "--check", ".") or python("-m", "mypy")


def bench(arguments: Arguments) -> int:
    """Measure speed side by side and write docs/benchmarks.md."""
    return python("-m", "benchmarks.speed", *arguments)


def clean(_: Arguments) -> int:
    """Delete what can be computed again: caches and the pipeline's outputs, not the data, not the runs."""
    # What Git has of the outputs stays: it is what the next result is compared with.
    ignored = ["git", "clean", "-fdXq", ".cache", "artifacts", "multirun"]
    if not (ROOT / ".git").exists() or subprocess.run(ignored, cwd=ROOT, check=False).returncode:
        for folder in (".cache", "artifacts", "multirun"):
            shutil.rmtree(ROOT / folder, ignore_errors=True)
    return 0


def setup(_: Arguments) -> int:
    """Install the pinned packages into .venv; every other command does so when it has to."""
    return 0


TASKS: dict[str, Callable[[Arguments], int]] = {
    task.__name__.replace("_", "-"): task
    for task in (repro, data, ui, verify, preview, setup, test, test_all, lint, bench, clean)
}


def main(arguments: Arguments) -> int:
    """Be the command line; return the exit status."""
    name, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if name not in TASKS:
        print("".join(f"{name:<10} {task.__doc__}\n" for name, task in TASKS.items()), end="")
        return int(name not in ("", "help"))
    try:
        return install() or TASKS[name](rest)
    except subprocess.CalledProcessError as error:  # it has said why
        return int(error.returncode)
    except KeyboardInterrupt:
        return 130


def install() -> int:
    """Make .venv from requirements.lock, unless it has been made from this lock and in this place."""
    ready, made = VENV / ".ready", origin(ROOT)
    if ready.exists() and ready.read_text(encoding="utf-8") == made:
        return 0
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        found = ".".join(map(str, sys.version_info[:3]))
        return fail(
            f"expected Python 3.11 to 3.13, found {found}; name another one, as in 'make repro PYTHON=python3.12'"
        )
    if os.name == "nt" and Path(sys.prefix).resolve() == VENV:  # which deletes no program that runs
        return fail(
            f"expected a Python outside {VENV.name}, which has to be made anew, found its own; 'deactivate' first"
        )
    print(f"Installing the pinned packages into {VENV.name}: a minute or two, once.", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
    # The lock is complete, so nothing is resolved: pip before 23.3 would ask for the newest coverage[toml].
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes", "-r", "requirements.lock"]
    done = subprocess.run(
        [BIN / PROGRAM, "-m", "pip", "install", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode:
        print(done.stdout + done.stderr, file=sys.stderr)
        return fail("expected to install requirements.lock, found what pip says above; mend that and try again")
    ready.write_text(made, encoding="utf-8", newline="\n")
    return 0


def origin(root: Path) -> str:
    """Say what a project's environment is made from, and where: its programs name the folder they are in."""
    return f"{hashlib.sha256((root / 'requirements.lock').read_bytes()).hexdigest()} {root / '.venv'}"


def python(*arguments: str, check: bool = False, quiet: bool = False) -> int:
    """Run Python in .venv, whose programs come first in the path; return the exit status."""
    environment = os.environ | {"PYTHONUTF8": "1", "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"}
    sink = subprocess.DEVNULL if quiet else None
    return subprocess.run(
        [BIN / PROGRAM, *arguments], cwd=ROOT, env=environment, check=check, stdout=sink, stderr=sink
    ).returncode


def fail(sentence: str) -> int:
    """Say what is wrong, and return the exit status of that."""
    print(f"error: {sentence}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # Windows has another one, which lacks signs that summaries have
    try:
        status = main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # nobody reads on, as in 'make | head'
        status = 1
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
    sys.exit(status)
