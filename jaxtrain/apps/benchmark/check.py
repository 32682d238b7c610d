"""The GPU check: parts in turn, each in a process of its own, inside one budget; results are written as they come."""

import datetime
import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxtrain.apps.benchmark import machine, process
from jaxtrain.apps.benchmark.config import GpuCheck
from jaxtrain.apps.benchmark.parts import PARTS, Part
from jaxtrain.apps.benchmark.process import PartEnd, PartProcess
from jaxtrain.apps.benchmark.results import ResultsFile
from jaxtrain.apps.benchmark.sizes import FULL, TINY, CheckSizes
from jaxtrain.config import ConfigError
from jaxtrain.train import workdir

ROOT = Path(__file__).parents[3]
# jax takes three quarters of a GPU's memory by default; the largest model needs more.
ENVIRONMENT = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92"}


def run(cfg: GpuCheck, say: Callable[[str], None]) -> dict[str, Any]:
    """The results after this run. Raises ConfigError where the sizes are a GPU's and jax is to use the CPU."""
    if not cfg.tiny and os.environ.get("JAX_PLATFORMS", "").split(",")[0] == "cpu":
        raise ConfigError(
            "JAX_PLATFORMS=cpu: these sizes need a GPU; use --tiny --out=FILE --page= to try the check"
        )
    end = time.monotonic() + cfg.seconds
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    about = {"started": started, "command": shlex.join(["launch/gpu_check", *sys.argv[1:]])}
    file = ResultsFile(Path(cfg.out), {**about, "git": workdir.git_state(ROOT), **machine.describe()})
    names, sizes = cfg.names(), TINY if cfg.tiny else FULL
    following = _start(PARTS[names[0]], cfg)
    try:
        for i, name in enumerate(names):
            current, following = following, _start(PARTS[names[i + 1]], cfg) if i + 1 < len(names) else None
            try:
                _measure(name, current, sizes, file, end, say)
            finally:
                current.close()
    finally:
        if following:
            following.close()
    return file.results


def _start(part: Part, cfg: GpuCheck) -> PartProcess:
    """The process of a part, which imports what it needs and waits."""
    env = {**ENVIRONMENT, **os.environ}
    if part.xla_flags:
        env["XLA_FLAGS"] = " ".join([*filter(None, [os.environ.get("XLA_FLAGS")]), part.xla_flags])
    if cfg.compiled:
        env.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(cfg.compiled).expanduser() / "compiled"))
    return PartProcess(part.module, part.function, env)


def _measure(
    name: str,
    current: PartProcess,
    sizes: CheckSizes,
    file: ResultsFile,
    end: float,
    say: Callable[[str], None],
) -> None:
    """One part, its records written as they come; in the time that is left."""
    part, begun = PARTS[name], time.monotonic()
    left = end - begun - process.GRACE
    seconds = left if sizes.tiny else min(part.most, left)  # a CPU may be busy with other things
    if seconds < part.least:
        note = f"{max(0.0, left):.0f} s were left, it takes {part.least} or more"
        file.leave_out(name, note)
        say(f"{name}: left out: {note}")
        return
    say(f"{name}: {part.about}, at most {seconds:.0f} s of {left:.0f}")
    file.start(name)
    result, load = PartEnd("stopped", "interrupted"), {}
    try:
        with machine.load_readings() as load:
            for message in current.run((sizes, *part.args), seconds):
                if isinstance(message, PartEnd):
                    result = message
                else:
                    file.add(name, *message)
                    say(f"  {message[0]}: {brief(message[1])}")
    finally:
        took = round(time.monotonic() - begun, 1)
        file.end(name, status=result.status, note=result.note, seconds=took, load=load)
        say(f"{name}: {result.status} after {took:.0f} s{': ' if result.note else ''}{result.note}")


def brief(record: Any) -> str:
    """The numbers of a record that a person who waits wants to see."""
    names = (
        "error",
        "tokens_per_s",
        "flops_per_s",
        "bytes_per_s",
        "first_step_s",
        "good",
        "passed",
        "failed",
        "mean",
    )
    shown = {name: record[name] for name in names if name in record} if isinstance(record, dict) else {}
    return ", ".join(
        f"{name} {v:.4g}" if isinstance(v, float) else f"{name} {v}" for name, v in shown.items()
    )
