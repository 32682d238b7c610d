"""The processes of a run: how one joins the others, and how it ends where it fails."""

import os
import sys
import traceback
from pathlib import Path
from typing import Any

import jax

from jaxtrain.config import ConfigError
from jaxtrain.files import processes
from jaxtrain.train import compiled_programs, stop


def initialize(cache_dir: str = "") -> None:
    """Joins the other processes of a run, if there are any: call it once, before anything else of jax.

    Compiled programs are stored in `cache_dir` for the next start, unless JAX_COMPILATION_CACHE_DIR names a folder.

    JAXTRAIN_COORDINATOR, JAXTRAIN_NUM_PROCESSES and JAXTRAIN_PROCESS_ID name them; on Slurm, TPU pods and under MPI
    jax finds them itself.
    """
    env = os.environ
    if "JAXTRAIN_COORDINATOR" in env:
        try:
            count, index = int(env["JAXTRAIN_NUM_PROCESSES"]), int(env["JAXTRAIN_PROCESS_ID"])
        except (KeyError, ValueError) as error:
            raise ConfigError(
                "JAXTRAIN_COORDINATOR is set, so JAXTRAIN_NUM_PROCESSES and JAXTRAIN_PROCESS_ID must be "
                f"numbers: {error}"
            ) from error
        if count > 1:
            jax.distributed.initialize(env["JAXTRAIN_COORDINATOR"], count, index)
            _joined()
    elif (
        (int(env.get("SLURM_NTASKS", "1")) > 1 and "SLURM_STEP_NODELIST" in env)
        or int(env.get("OMPI_COMM_WORLD_SIZE", "1")) > 1
        # Two slices of one host each have one name in their lists.
        or "," in env.get("TPU_WORKER_HOSTNAMES", "")
        or int(env.get("MEGASCALE_NUM_SLICES", "1")) > 1
        or "JAX_COORDINATOR_ADDRESS" in env
    ):
        jax.distributed.initialize()
        _joined()
    if cache_dir and not jax.config.jax_compilation_cache_dir:
        compiled_programs.verify(folder := Path(cache_dir).expanduser() / "compiled")
        jax.config.update("jax_compilation_cache_dir", str(folder))


def _joined() -> None:
    processes.take_place(jax.process_index(), jax.process_count())
    stop.stop_before_training()
    sys.excepthook = _leave


def _leave(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Ends a process of several with its traceback last; exit handlers would wait for the others, and they for it."""
    traceback.print_exception(kind, error, trace)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
