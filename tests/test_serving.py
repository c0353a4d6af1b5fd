"""``mlflow models serve`` with the published model: answers for pictures, and a 4xx for everything else."""

import base64
import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages import evaluate
from tests.helpers import finished, servers
from tests.helpers.project import printed
from thaw.artifacts import Paths
from thaw.models.portable import Model
from thaw.runs import registry

pytestmark = pytest.mark.slow

Post = Callable[..., tuple[int, Any]]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Paths]:
    folder = tmp_path_factory.mktemp("published")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patch.setenv("THAW_CACHE", str(folder / "cache"))
        found = finished.pipeline(folder)
        evaluate.run(found, finished.EVALUATE, finished.SEED)
        yield found


@pytest.fixture(scope="module")
def address(paths: Paths, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the champion is served."""
    port = servers.free_port()
    model = f"models:/{registry.model_name(paths.manifest)}@champion"
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model, "--env-manager", "local"]
    log = tmp_path_factory.mktemp("log") / "log"
    with servers.served([*command, "--port", str(port)], f"http://127.0.0.1:{port}/ping", log):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def post(address: str) -> Post:
    """Send it a request."""

    def send(body: Any, kind: str = "application/json") -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"{address}/invocations", data, {"Content-Type": kind})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    return send


def test_pictures_in_base64_and_as_arrays_are_answered_as_predict_does(paths: Paths, post: Post) -> None:
    file = paths.data / "class_1" / "004.png"
    (expected,) = Model(paths.finished).answer([file])
    encoded = base64.b64encode(file.read_bytes()).decode()
    pixels = np.asarray(Image.open(file)).tolist()
    status, answer = post({"inputs": [encoded, pixels]})
    assert status == 200
    for one in answer["predictions"]:
        assert one["label"] == expected.label
        assert one["probability"] == pytest.approx(expected.probability, abs=1e-6)
        assert one["unsure"] == expected.unsure
        assert one["probabilities"] == pytest.approx(expected.probabilities, abs=1e-6)


def test_the_documented_line_sends_a_photo_of_any_size(paths: Paths, address: str, tmp_path: Path) -> None:
    """A phone's photo, in base64, is longer than a command line may be."""
    noise = np.random.default_rng(0).integers(0, 256, (2200, 2200, 3), dtype=np.uint8)
    photo = tmp_path / "PHOTO.jpg"
    Image.fromarray(noise).save(photo, quality=97)
    assert photo.stat().st_size > 5e6
    (line,) = [block for block in printed("docs/models.md", "Serving") if "curl" in block]
    line = line.replace("http://127.0.0.1:5002", address)
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", line], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    (answer,) = json.loads(done.stdout)["predictions"]
    (expected,) = Model(paths.finished).answer([photo])
    assert answer["label"] == expected.label
    assert answer["probability"] == pytest.approx(expected.probability, abs=1e-6)


def bad_requests() -> list[tuple[Any, str]]:
    """Fifty, from all corners."""
    text = base64.b64encode(b"some text").decode()
    png = base64.b64encode((Path(__file__).parent.parent / "docs" / "report.png").read_bytes()[:500]).decode()
    no_pictures: list[Any] = [
        None, True, 1, 1.5, "", "no base64", text, png, "=", "AAAA", {}, {"image": text}, [], [[]], [[[]]], [1],
        [[1, 2, 3]], [[[1, 2]]], [[[1, 2, 3, 4]]], [[[1, 2, 3]], [[1, 2, 3], [4, 5, 6]]], [[["r", "g", "b"]]],
        [[[256, 0, 0]]], [[[-1, 0, 0]]], [[[0.5, 0.5, 0.5]]], [[[None, 0, 0]]], [[[1e400, 0, 0]]], [[[10**30, 0, 0]]],
        "\x00", "é" * 5,
    ]  # fmt: skip
    bodies: list[Any] = [
        {}, [], None, 1, "text", {"inputs": None}, {"inputs": 5}, {"inputs": "text"}, {"inputs": {"a": [1]}},
        {"instances": [text]}, {"dataframe_split": {}}, {"dataframe_records": [{"a": 1}]}, {"images": [text]},
        b"", b"{", b"\xff\xfe\x00", b"{\"inputs\": [NaN]}", b"[" * 100,
    ]  # fmt: skip
    requests = [({"inputs": [one]}, "application/json") for one in no_pictures]
    requests += [(body, "application/json") for body in bodies]
    return [*requests, (b"x", "image/png"), (b"a,b\n1,2\n", "text/csv"), (b"PAR1", "application/vnd.apache.parquet")]


def test_fifty_bad_requests_are_the_client_s_mistakes_and_crash_nothing(paths: Paths, post: Post) -> None:
    requests = bad_requests()
    assert len(requests) == 50
    found = [(post(body, kind)[0], str(body)[:80], kind) for body, kind in requests]
    assert [one for one in found if not 400 <= one[0] < 500] == []
    file = paths.data / "class_1" / "004.png"
    status, _ = post({"inputs": [base64.b64encode(file.read_bytes()).decode()]})
    assert status == 200, "it still answers"
