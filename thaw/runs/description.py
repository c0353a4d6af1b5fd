"""What a run in MLflow says: its name, parameters, figures and curves, and which run it is.

A run stands for a fingerprint, the hash of the configuration of every stage and of the manifest.
"""

import itertools
import json
import math
import os
from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from thaw.architectures import named
from thaw.artifacts import Paths, fingerprint, git
from thaw.config.schema import NO_MATTER
from thaw.evidence.comparison import counted, is_tuned
from thaw.learning import curves
from thaw.learning.curves import Row
from thaw.machine import environment

FINGERPRINT = "thaw.fingerprint"
PUBLISHED = "thaw.published"  # when evaluate has last seen to a run, in seconds since 1970
SWEEP = "thaw.sweep"  # of the runs of a sweep: its name
CURVES = ("train_head", "finetune")
SECONDS = "seconds/"  # with the name of a stage, what it took, with the stretches that were stopped
MACHINE = ("system/", SECONDS)  # how the keys of metrics begin that say something of the machine, not of the result
Point = tuple[str, float, int]  # of a metric: key, value, step
_COMPARISON = {"finetuned", "delta", "mcnemar_p", "fixed", "broken"}  # what figures.json says of two models


def run_name(config: Mapping[str, Any]) -> str:
    """Return a name that tells runs apart in the run table, what is varied most first: columns there are narrow."""
    backbone, head, finetune = config["backbone"], config["train_head"], config["finetune"]
    depths = "probe" if config.get("rank") == "backbone" else _depth(finetune)
    low = [f"LoRA {finetune['lora']}"] if finetune.get("lora") else []
    network = f"{named(backbone)} {backbone['alpha']:g} at {backbone['input_size']} px"
    hidden = "".join(f" {units}" for units in head.get("hidden", []))
    views = f"{config['augment']['views']} views"
    augmented = [views] if config["augment"]["views"] else []
    return " · ".join([depths, *low, network, *augmented, head["solver"] + hidden, f"seed {config['seed']}"])


def _depth(finetune: Mapping[str, Any]) -> str:
    unfreeze = finetune["unfreeze"]
    if isinstance(unfreeze, str):
        effort = finetune.get("effort", "normal")
        return "head only" if unfreeze == "none" else "auto" if effort == "normal" else f"auto, {effort}"
    ((unit, count),) = ((unit, count) for unit, count in unfreeze.items() if count is not None)
    return "all" if unit == "all" else f"last {count} {unit}"


def headline(metrics: Mapping[str, Any]) -> str:
    """Return the result in one sentence."""
    head, tuned, delta = metrics["head"], metrics["finetuned"], metrics["delta"]
    if not is_tuned(metrics):
        return (
            f"{metrics['verdict'].capitalize()}: accuracy {head['accuracy']:.1%} with the head alone "
            f"({head['accuracy_low']:.1%} to {head['accuracy_high']:.1%}) on {counted(metrics)}."
        )
    return (
        f"{metrics['verdict'].capitalize()}: accuracy {head['accuracy']:.1%} before, {tuned['accuracy']:.1%} after, "
        f"difference {100 * delta['accuracy']:+.1f} points ({100 * delta['accuracy_low']:+.1f} to "
        f"{100 * delta['accuracy_high']:+.1f}) on {counted(metrics)}."
    )


def flat(tree: Mapping[str, Any], separator: str) -> dict[str, Any]:
    """Turn nested mappings into one, whose keys are the ways to the leaves; what is None is not there."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if value is None:
            continue
        inner = flat(value, separator) if isinstance(value, Mapping) else {"": value}
        leaves |= {f"{key}{separator}{way}" if way else key: leaf for way, leaf in inner.items()}
    return leaves


def parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that can change a result, flattened; not how and where it is computed and kept."""
    changed = {section: value for section, value in config.items() if section != "evaluate"}
    if not config["augment"]["views"]:
        changed["augment"] = {"views": 0}  # the rest has no say
    found = flat(changed, ".")
    return {key: value for key, value in found.items() if key not in NO_MATTER and value != []}


def curve_points(row: Row, offset: int) -> list[Point]:
    """Return the points of one row of a learning curve, ``offset`` steps further on the axis of both phases."""
    step = int(row["step"]) + offset
    # With as many digits as the file has, so that live points and published ones are the same.
    return [(f"curve/{key}", float(f"{value:.9g}"), step) for key, value in row.items() if _is_point(key, value)]


def _is_point(key: str, value: float) -> bool:
    return key not in ("step", "kept") and math.isfinite(value)


def points(paths: Paths, metrics: Mapping[str, Any]) -> list[Point]:
    """Return the figures of ``figures.json`` and both learning curves, the second one going on where the first ends.

    Where nothing was fine-tuned, only those of the head: there is nothing to compare them with.
    """
    tuned = is_tuned(metrics)
    told = {key: value for key, value in metrics.items() if tuned or key not in _COMPARISON}
    found = [(key, float(value), 0) for key, value in flat(told, "/").items() if not isinstance(value, str | list)]
    offset = 0
    for stage in CURVES if tuned else CURVES[:1]:
        rows = curves.read(paths.history(stage))
        found += itertools.chain.from_iterable(curve_points(row, offset) for row in rows)
        offset += len(rows)
    return found


def identity(paths: Paths, config: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags that say which run this is, and where its code and its data came from."""
    tags = {
        FINGERPRINT: fingerprint(json.dumps(config, sort_keys=True), paths.manifest),
        "mlflow.source.name": "dvc repro",
        "environment": ", ".join(f"{key} {value}" for key, value in environment().items()),
    }
    if commit := git("rev-parse", "HEAD"):
        tags["mlflow.source.git.commit"] = commit.strip()
        tags["mlflow.source.git.dirty"] = str(bool((git("status", "--porcelain", "-uno") or "").strip()))
    if sweep := os.environ.get("THAW_SWEEP"):  # ``sweeps.jobs`` sets it while it runs a job
        tags |= {SWEEP: sweep, "mlflow.source.name": "python -m stages.sweep"}
    for name in ("DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):  # DVC sets them while it runs an experiment
        if name in os.environ:
            tags[name.lower()] = os.environ[name]
    tracked = paths.data.with_name(f"{paths.data.name}.dvc")
    if tracked.exists():
        tags["data_md5"] = str(OmegaConf.select(OmegaConf.load(tracked), "outs[0].md5"))
    return tags
