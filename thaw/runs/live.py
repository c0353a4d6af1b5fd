"""Publish a learning curve while it grows: the process that ``curves.live`` starts (``python -m thaw.runs.live``).

It outlives the training process by a moment, and marks the run if that was killed. It works at low priority, in
batches, and needs nothing of the training but the lines on its standard input.
"""

import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

from thaw.artifacts import Paths
from thaw.learning import curves
from thaw.runs import description, publishing, store
from thaw.runs.description import CURVES, FINGERPRINT, PUBLISHED, SECONDS, Point

if TYPE_CHECKING:
    from mlflow import MlflowClient

STAGE = "thaw.stage"  # the tag of a run: which stage is, or was last, at work
PAUSE = 1.0  # seconds between two batches


def follow(lines: Iterable[str]) -> None:
    """Publish the rows of one curve, ``lines`` as ``curves.live`` sends them, until they end.

    The run is the one of this configuration and data: found, if an earlier training was stopped or an earlier stage has
    begun it, else created. If the store does not answer, one sentence on stdout says so; the rows are tried again.
    """
    received: SimpleQueue[Any] = SimpleQueue()

    def read() -> None:
        try:
            for line in lines:
                received.put(json.loads(line))
        except ValueError:  # half a line, the last one of a process that was killed
            pass
        finally:
            received.put("KILLED")  # nobody has said how it ended: whoever should have is gone

    Thread(target=read, daemon=True).start()
    start = received.get()
    if not isinstance(start, dict):
        return
    paths, stage, uri = Paths(Path(start["data"]), Path(start["root"])), start["stage"], store.address()
    # The head's curve comes first on the axis; DVC may have taken it from its cache, so that nobody has followed it.
    head = curves.read(paths.history(CURVES[0])) if stage == CURVES[1] else []
    pending: list[Point] = [point for row in head for point in description.curve_points(row, 0)]
    run: Run | None = None
    end, warned = "", False
    while not end:
        messages = [received.get()]
        time.sleep(PAUSE)
        while not received.empty():
            messages.append(received.get())
        for message in messages:
            if isinstance(message, str):
                end = end or message
            else:
                pending += description.curve_points(message, len(head))
        try:
            with store.alone():
                run = run or Run(store.connect(uri), stage, paths, start["config"], start["began"])
                if not run.log(pending, end):
                    return
            pending = []
        except store.failures() as error:
            if not warned:
                print(
                    f"warning: MLflow at {store.public(uri, uri)} takes no learning curve "
                    f"({store.public(uri, error)}); training goes on, and evaluate publishes everything",
                    flush=True,
                )
            warned = True


class Run:
    """The run that a training process is followed in."""

    def __init__(
        self, client: "MlflowClient", stage: str, paths: Paths, config: Mapping[str, Any], began: float
    ) -> None:
        """Find the run, or create it.

        Args:
            client: of the store.
            stage: whose curve it is.
            paths: of the pipeline.
            config: of all stages, as plain values.
            began: when the stage began, in seconds since 1970.
        """
        tags = description.identity(paths, config)
        same = publishing.same_runs(client, tags[FINGERPRINT])
        self._client, self._stage, self._began, self._monitor = client, stage, began, None
        self._there: set[tuple[str, int]] = set()
        # Whoever trains for a moment only may be overtaken by evaluate; there is nothing left to follow then.
        published = [run for run in same if float(run.data.tags.get(PUBLISHED, 0)) > began]
        unfinished = [run for run in same if run.info.status != "FINISHED"]
        if published:
            self._id = published[0].info.run_id
            return
        if unfinished:
            self._id = unfinished[0].info.run_id
            self._there = {(key, step) for key, _, step in publishing.logged(client, unfinished[0])}
        else:
            self._id = publishing.begin(client, paths, config, tags)
        if not self._is_left_behind(unfinished[0].data.tags.get(STAGE) if unfinished else None):
            client.set_tag(self._id, STAGE, stage)
            client.update_run(self._id, "RUNNING")
        self._monitor = _monitor(self._id)

    def log(self, points: list[Point], end: str) -> bool:
        """Log what is new, and at the end how the stage ended; False if the run is complete, or gone, already."""
        run = self._client.get_run(self._id)
        if run.info.status == "FINISHED" or run.info.lifecycle_stage == "deleted":
            return False
        new = [point for point in points if (point[0], point[2]) not in self._there]
        publishing.log(self._client, self._id, new)
        self._there |= {(key, step) for key, _, step in new}
        if end:
            cost = SECONDS + self._stage
            self._client.log_metric(self._id, cost, run.data.metrics.get(cost, 0) + time.time() - self._began)
        if end and self._monitor:
            self._monitor.finish()
        if end and not self._is_left_behind(run.data.tags.get(STAGE)):
            say = self._client.update_run if end == "SCHEDULED" else self._client.set_terminated
            say(self._id, end)
        return True

    def _is_left_behind(self, stage: str | None) -> bool:
        """Whether a later stage has begun: the state of the run is its affair then."""
        return stage is not None and CURVES.index(stage) > CURVES.index(self._stage)


def _monitor(run_id: str) -> Any:
    """Measure processor, memory and GPU while training goes on, if ``MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING`` says so."""
    if os.environ.get("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "").lower() not in ("1", "true"):
        return None
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=store.address())
    monitor.start()
    return monitor


if __name__ == "__main__":
    if hasattr(os, "nice"):  # not on Windows
        os.nice(10)  # training comes first
    follow(sys.stdin)
