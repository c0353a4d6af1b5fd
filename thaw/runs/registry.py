"""The finished model in MLflow: logged with its run, the best of a data set registered, and found again.

A model is what ``models.portable`` writes, together with ``models/serving.py``, which MLflow runs to load it, and the
few modules that both need: MLflow can serve it anywhere, and unpickles nothing.
"""

import base64
import io
import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from thaw.artifacts import PROJECT, Paths, fingerprint, read_json
from thaw.errors import UserError
from thaw.models.portable import CARD, FACTS
from thaw.runs.store import address, alone, connect, experiment, failures, public

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION = "champion"
SERVING = "thaw/models/serving.py"  # what MLflow runs
# What it needs, which a model carries with it.
MODULES = (
    "thaw/__init__.py",
    "thaw/chatter.py",
    "thaw/errors.py",
    "thaw/machine.py",
    "thaw/parallel.py",
    "thaw/data/__init__.py",
    "thaw/data/images.py",
    "thaw/data/objects.py",
    "thaw/data/shards.py",
    "thaw/models/__init__.py",
    "thaw/models/portable.py",
    "thaw/networks/__init__.py",
    "thaw/networks/inference.py",
)
REQUIREMENTS = ("mlflow", "numpy", "openvino", "pillow", "pillow-heif", "tqdm")


def publish(client: "MlflowClient", run_id: str, paths: Paths, metrics: Mapping[str, Any], identical: str) -> None:
    """Log the model of a run; register it if it is the best of its data set on validation, and say so.

    Only models of the same images in the same split are compared: other validation images are another measure.

    Args:
        client: of the store.
        run_id: the run.
        paths: of the pipeline.
        metrics: what ``comparison.compare`` returned.
        identical: the run's fingerprint.
    """
    model = _log(client, run_id, paths)
    name, accuracy = model_name(paths.manifest), metrics[metrics["kept"]]["val_accuracy"]
    champion = _champion(client, name)
    ours = champion is not None and champion.tags.get("fingerprint") == identical
    if champion and not ours and float(champion.tags["val_accuracy"]) >= accuracy:
        print(
            f"Champion: still the model of run {champion.tags['run']!r} with validation accuracy "
            f"{float(champion.tags['val_accuracy']):.1%}; this one has {accuracy:.1%}"
        )
        return
    if champion is None:
        classes = read_json(paths.classes)
        _create(client, name, f"Classifies images of {len(classes)} classes: {', '.join(classes)}."[:1000])
    made = client.create_model_version(
        name,
        model.model_uri,
        run_id,
        tags={"val_accuracy": str(accuracy), "run": client.get_run(run_id).info.run_name, "fingerprint": identical},
        description=(paths.finished / CARD).read_text(encoding="utf-8")[:5000],
        model_id=model.model_id,
    )
    client.set_registered_model_alias(name, CHAMPION, made.version)
    before = "the first of this data" if champion is None else f"{float(champion.tags['val_accuracy']):.1%} before"
    print(f"Champion: this model, with validation accuracy {accuracy:.1%} ({before}); registered as {name}")


def model_name(manifest: Path) -> str:
    """Return the name under which the models of one data set, split as it is, are registered."""
    return f"thaw-{fingerprint(manifest)[:8]}"


def chosen(which: str | None, paths: Paths) -> Path:
    """Return the folder of the model that is meant: by default the one that ``dvc repro`` has made.

    Args:
        which: a folder, or what ``fetch`` takes.
        paths: of the project.

    Raises:
        UserError: there is none of that name.
    """
    if which is None:
        return paths.finished
    folder = Path(which).expanduser()
    return folder if folder.is_dir() else fetch(which, paths.manifest)


def fetch(which: str, manifest: Path) -> Path:
    """Bring a published model here and return its folder, see ``portable.Model``.

    Args:
        which: ``champion``, the id or the name of a run, or what MLflow calls a model (``models:/…``, ``runs:/…``).
        manifest: of the project's own data: where several champions are, theirs is meant.

    Raises:
        UserError: there is no such model, or the store does not answer.
    """
    uri = address()
    try:
        with alone():
            client = connect(uri)
            known = experiment(client)
        return _download(client, known, which, manifest)
    except failures() as error:
        raise UserError(
            f"--model: expected MLflow to answer at {public(uri, uri)}, found: {public(uri, error)}; start it, or name "
            "a folder"
        ) from None


def _download(client: "MlflowClient", experiment: str, which: str, manifest: Path) -> Path:
    import mlflow

    if which == CHAMPION:
        which = f"models:/{_which_champion(client, manifest)}@{CHAMPION}"
    elif not which.startswith(("models:/", "runs:/")):
        which = _of_run(client, experiment, which)
    try:
        folder = Path(mlflow.artifacts.download_artifacts(which))
    except (mlflow.exceptions.MlflowException, OSError) as error:
        raise UserError(
            f"--model: expected a published model at {which}, found: {' '.join(str(error).split())[:300]}"
        ) from None
    return folder / "artifacts" / "model"


def _which_champion(client: "MlflowClient", manifest: Path) -> str:
    registered = client.search_registered_models("name LIKE 'thaw-%'")
    known = sorted(str(one.name) for one in registered if CHAMPION in one.aliases)
    if manifest.exists() and (own := model_name(manifest)) in known:
        return own
    if len(known) != 1:
        raise UserError(
            f"--model champion: expected one data set with a champion, found {', '.join(known) or 'none'}; "
            + ("name one of them: --model models:/NAME@champion" if known else "run 'dvc repro' first")
        )
    return known[0]


def _of_run(client: "MlflowClient", experiment: str, which: str) -> str:
    """What MLflow calls the model of a run, which is known by its id or its name."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(which)
    except MlflowException:
        quoted = which.replace("'", "''")
        named = client.search_runs([experiment], f"attributes.run_name = '{quoted}'", max_results=1)
        run = named[0] if named else None
    if run is None or not run.outputs.model_outputs:
        raise UserError(
            f"--model: expected a folder, champion, or the id or name of a finished run, found {which!r}; "
            "'make ui' shows the runs"
        )
    return f"models:/{run.outputs.model_outputs[-1].model_id}"


def _log(client: "MlflowClient", run_id: str, paths: Paths) -> Any:
    """Log the model as an MLflow model: code and an input example included, the signature read off its type hints."""
    from mlflow import pyfunc
    from mlflow.models import Model

    # Created here, because MLflow itself would put it into its default experiment.
    experiment = client.get_run(run_id).info.experiment_id
    created = client.create_logged_model(experiment, name="model", source_run_id=run_id)
    with tempfile.TemporaryDirectory() as scratch:
        for module in MODULES:
            (copy := Path(scratch) / module).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(PROJECT / module, copy)
        return Model.log(
            None,
            pyfunc,
            run_id=run_id,
            model_id=created.model_id,
            python_model=str(PROJECT / SERVING),
            artifacts={"model": str(paths.finished)},
            code_paths=[str(Path(scratch) / "thaw")],
            input_example=[example(paths)],
            pip_requirements=[f"{package}=={version(package)}" for package in REQUIREMENTS],
        )


def example(paths: Paths) -> str:
    """Return a grey picture, and so none of the user's, as a client would send it: a PNG file in base64."""
    size = read_json(paths.finished / FACTS)["input_size"]
    file = io.BytesIO()
    Image.new("RGB", (size, size), "grey").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _champion(client: "MlflowClient", name: str) -> Any:
    """Return the present champion's version, None if there is none."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException:
        return None


def _create(client: "MlflowClient", name: str, description: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description=description)
    except MlflowException as error:  # it is there, and somebody has taken the alias away
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
