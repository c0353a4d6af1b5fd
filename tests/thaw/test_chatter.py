"""A run shows the product's own lines: what TensorFlow says about itself does not appear, and what matters does."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from thaw import chatter
from thaw.artifacts import PROJECT

BUILDING = """
from tests.helpers import options
from thaw.config.schema import Backbone
from thaw.learning import finetuning
from thaw.learning.heads import Head
import numpy as np
head = Head([(np.zeros((1280, 2), np.float32), np.zeros(2, np.float32))])
for size in (32, 48, 64, 96, 160):
    model = finetuning.classifier(Backbone.model_validate(options.BACKBONE | {"input_size": size}), head, 0.0, 0)
    model.predict_on_batch(np.zeros((1, size, size, 3), np.uint8))
"""


def said(code: str, **variables: str) -> str:
    """What a new process that runs ``code`` says on standard error."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROJECT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    )
    return done.stderr


def test_networks_are_built_and_run_in_silence() -> None:
    assert said(BUILDING) == ""


def test_what_an_import_says_that_matters_is_seen(tmp_path: Path) -> None:
    lines = ["I0000 00:00:1.5 1 port.cc:153] about me", "E0000 00:00:1.5 1 x.cc:1] a failure", "a library is missing"]
    (tmp_path / "tensorflow.py").write_text(
        "import os\n" + "".join(f"os.write(2, {line!r}.encode() + b'\\n')\n" for line in lines), encoding="utf-8"
    )
    assert said("import thaw, tensorflow", PYTHONPATH=str(tmp_path)).splitlines() == lines[1:]


@pytest.mark.parametrize("first", ["keras", "tensorflow"])
def test_keras_is_imported_without_what_serves_nothing_here(first: str) -> None:
    found = "{'matplotlib', 'pandas', 'sklearn'} & {*sys.modules}"
    code = f"import sys, thaw, {first}, keras; print({found}, file=sys.stderr)"
    assert said(f"{code}; import matplotlib.pyplot, pandas, sklearn.base") == "set()\n", "others find them"


def test_whatever_is_said_is_said_in_utf8(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file or pipe is in cp1252 on Windows, which has neither of these signs."""
    file = io.BytesIO()
    with io.TextIOWrapper(file, encoding="cp1252", newline="\n") as out:
        monkeypatch.setattr(sys, "stdout", out)
        with pytest.raises(UnicodeEncodeError):
            print("0.9 → 1, −0.8")
        chatter.in_utf8()
        print("0.9 → 1, −0.8", flush=True)
        monkeypatch.undo()
        assert file.getvalue() == "0.9 → 1, −0.8\n".encode()


def unread(*arguments: str, lines: int = 0) -> tuple[str, int]:
    """What a command says on standard error if whoever reads its output goes away after some lines, and its status."""
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as command:
        assert command.stdout is not None
        assert command.stderr is not None
        for _ in range(lines):
            command.stdout.readline()
        command.stdout.close()
        return command.stderr.read(), command.wait()


@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "stages.predict", "--help"],
        ["-m", "stages.prepare", "--cfg", "job"],
        ["-m", "stages.sweep", "--help"],
        ["-m", "thaw.runs", "--help"],
        ["-c", "import thaw; print('a\\n' * 100_000)"],
        ["-c", "import thaw\nfor _ in range(100_000): print('a')"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("lines", [0, 1])
def test_without_a_reader_a_command_ends_and_says_nothing(arguments: list[str], lines: int) -> None:
    said, status = unread(*arguments, lines=lines)
    assert said == ""
    assert status in (0, 1)


def test_a_job_of_hydras_without_a_reader_ends_as_well() -> None:
    code = (
        "from thaw.config.composing import launch\n"
        "def job(cfg):\n"
        "    for _ in range(100_000): print('a')\n"
        "launch(job, 'stages.prepare')"
    )
    assert unread("-c", code, lines=1) == ("", 1)


def test_another_broken_pipe_is_no_matter_of_who_reads() -> None:
    said, status = unread("-c", "import thaw, os\nr, w = os.pipe(); os.close(r); os.write(w, b'a')", lines=1)
    assert "BrokenPipeError" in said
    assert status == 1
