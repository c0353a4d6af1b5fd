"""What this machine is: its processor, cores and GPU, and the versions of what computes on it."""

import math
import os
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

CGROUP, CPU = Path("/sys/fs/cgroup"), Path("/proc/cpuinfo")
PACKAGES = ("keras", "tensorflow", "tensorflow-cpu", "openvino", "scikit-learn", "scipy", "numpy", "pillow")
# What libraries choose their kernels by, the best first: a flag of /proc/cpuinfo, and how people call it.
INSTRUCTIONS = {"amx_tile": "AMX", "avx512f": "AVX-512", "avx2": "AVX2"}


def environment() -> dict[str, str | int]:
    """Say what a result may depend on beside data, configuration and code: to the last bit, or more.

    Returns:
        The processor, the number of threads, Python's version, and those of the packages that compute.
    """
    found: dict[str, str | int] = {"processor": processor(), "threads": cores()}
    found["python"] = platform.python_version()
    for package in PACKAGES:
        with suppress(PackageNotFoundError):  # there is one of the two TensorFlows
            found[package] = version(package)
    return found


def processor() -> str:
    """Name the kind of processor, by what decides which kernels compute on it: ``x86_64 with AVX-512``."""
    kind = platform.machine().lower()
    try:
        flags = set(CPU.read_text(encoding="utf-8").partition("\nflags")[2].partition("\n")[0].split())
    except OSError:  # no Linux
        return kind
    best = next((name for flag, name in INSTRUCTIONS.items() if flag in flags), "")
    return f"{kind} with {best}" if best else kind


def cores() -> int:
    """How many cores this process may use at once: those it is bound to, and no more than its container is granted.

    A container's share is a quota of time (``docker run --cpus=2``) that counting processors does not show; threads
    beyond it are stopped in the middle of their work. ``THAW_CORES`` lowers it further: a worker of a cluster has it.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = float(os.environ.get("THAW_CORES") or math.inf)
    return max(1, math.ceil(min(bound, _granted(), share)))


def _granted() -> float:
    """The control group's share in cores (version 2, then 1); infinite where there is no limit."""
    for quota, period in (("cpu.max", None), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = (CGROUP / quota).read_text(encoding="utf-8").split()
            if period:
                words += (CGROUP / period).read_text(encoding="utf-8").split()
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
