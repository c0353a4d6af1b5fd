"""What this machine offers: processor cores, and a GPU that TensorFlow could use."""

import math
import os
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def cores() -> int:
    """How many cores this process may use at once: those it is bound to, and no more than its container is granted.

    A container's share is a quota of time (``docker run --cpus=2``) that counting processors does not show; threads
    beyond it are stopped in the middle of their work.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(bound, _granted())))


def _granted() -> float:
    """The control group's share in cores (version 2, then 1); infinite where there is no limit."""
    for quota, period in (("cpu.max", None), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = (CGROUP / quota).read_text().split()
            if period:
                words += (CGROUP / period).read_text().split()
            if words[0] not in ("max", "-1"):
                return int(words[0]) / int(words[1])
        except (OSError, ValueError, IndexError):
            continue
    return math.inf


def has_gpu() -> bool:
    """Whether there is an NVIDIA GPU and a TensorFlow that was built to use one; does not import TensorFlow."""
    if not any(Path("/proc/driver/nvidia/gpus").glob("*")):
        return False
    try:
        distribution("tensorflow")
    except PackageNotFoundError:  # tensorflow-cpu
        return False
    return True
