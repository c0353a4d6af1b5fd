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
