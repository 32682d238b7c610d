"""The machine of a measurement: its devices, driver, clocks and power, versions and commit."""

import contextlib
import importlib.metadata
import platform
import shutil
import statistics
import subprocess
from collections.abc import Iterator
from typing import Any

from jaxtrain.train import workdir

DEVICE = ("name", "driver_version", "memory.total", "power.limit", "clocks.max.sm", "clocks.max.memory")
LOAD = ("utilization.gpu", "clocks.sm", "clocks.mem", "power.draw", "temperature.gpu")
# Besides those that every run records: what the numbers of a GPU depend on.
PREFIXES = ("jax-cuda", "nvidia-cu", "nvidia-nccl", "torch", "triton", "flax", "optax")
INTERVAL_MS = 500  # between two readings of clocks and power


def describe() -> dict[str, Any]:
    """Host, GPUs as nvidia-smi has them (none where it is missing), and versions. jax is not imported."""
    names = {dist.metadata["Name"]: dist.version for dist in importlib.metadata.distributions()}
    extra = {name: names[name] for name in sorted(names, key=str) if name and name.startswith(PREFIXES)}
    return {
        "host": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "gpus": _query(DEVICE),
        "versions": {**workdir.versions(), **extra},
    }


def _query(fields: tuple[str, ...]) -> list[dict[str, str]]:
    """A dict of nvidia-smi's fields for each GPU; none where there is no nvidia-smi or it fails."""
    command = shutil.which("nvidia-smi")
    if not command:
        return []
    ask = [command, f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(ask, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [
        dict(zip(fields, map(str.strip, line.split(",")), strict=False)) for line in done.stdout.splitlines()
    ]


@contextlib.contextmanager
def load_readings() -> Iterator[dict[str, float]]:
    """A dict that has, once the context ends, the first GPU's median clocks, power and temperature while it was busy.

    It stays empty where there is no nvidia-smi, or the GPU was never busy.
    """
    readings: dict[str, float] = {}
    command = shutil.which("nvidia-smi")
    if not command:
        yield readings
        return
    ask = [
        command,
        "--id=0",
        f"--query-gpu={','.join(LOAD)}",
        "--format=csv,noheader,nounits",
        "-lms",
        f"{INTERVAL_MS}",
    ]
    with subprocess.Popen(ask, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield readings
        finally:
            process.terminate()
            text, _ = process.communicate()
            readings.update(busy_medians(text))


def busy_medians(text: str) -> dict[str, float]:
    """Medians of the readings, a CSV line each, at which the GPU was at work at least half of the time."""
    rows = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):  # a line cut off at the end, or "[N/A]"
            rows.append([float(value) for value in line.split(",")])
    busy = [row for row in rows if len(row) == len(LOAD) and row[0] >= 50]
    if not busy:
        return {}
    medians = (statistics.median(column) for column in zip(*busy, strict=True))
    return {"readings": len(busy)} | dict(zip(LOAD[1:], list(medians)[1:], strict=True))
