"""Executors of a filter run: processes of this machine, or Slurm jobs or Ray tasks by datatrove's executors."""

import functools
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from jaxtrain.apps.filters import run as filter_run
from jaxtrain.apps.filters.plan import FilterPhase, FilterRun
from jaxtrain.apps.filters.steps import Scorer
from jaxtrain.config import ConfigError, Failure
from jaxtrain.files.progress import bar

_TITLES = {
    "check": "filtering",
    "pairs": "searching near duplicates",
    "near": "comparing near duplicates",
    "write": "writing",
}
Task = Callable[[str, int], None]


def execute(run: FilterRun, scorer: Scorer | None = None) -> None:
    """Runs the unfinished tasks, phase by phase. Slurm's jobs are only submitted, each to wait for the one before."""
    task = functools.partial(filter_run.run_task, str(run.out), scorer)
    _EXECUTORS[run.cfg.work.executor](run, task)


def worker_count(run: FilterRun) -> int:
    """The number of tasks that run at once on this machine."""
    return run.cfg.work.workers or len(os.sched_getaffinity(0))


def _local(run: FilterRun, task: Task) -> None:
    count = min(worker_count(run), max(len(phase.sizes) for phase in run.phases()))
    if count == 1:
        for phase in run.phases():
            _run_phase(run, phase, lambda name, left: ((rank, task(name, rank)) for rank in left))
        return
    # A forked child would hold the locks of its parent's threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context, initializer=_exit_with_parent) as pool:

        def submit(name: str, left: list[int]) -> Iterator[tuple[int, Any]]:
            futures = {pool.submit(task, name, rank): rank for rank in left}
            for future in as_completed(futures):
                yield futures[future], future.result()

        try:
            for phase in run.phases():
                _run_phase(run, phase, submit)
        except BrokenProcessPool as error:
            raise Failure(
                "a process of the filter run was killed, perhaps as memory ran out (lower --workers); the same "
                "command resumes it, and repeats no finished shard"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _run_phase(
    run: FilterRun, phase: FilterPhase, results: Callable[[str, list[int]], Iterator[tuple[int, Any]]]
) -> None:
    """Runs the unfinished tasks of a phase, with a progress bar of documents."""
    left = filter_run.unfinished(run, phase.name)
    total = sum(phase.sizes[i] for i in left)
    with bar(_TITLES.get(phase.name, phase.name), total, least=20_000) as advance:
        for rank, _ in results(phase.name, left):
            advance(phase.sizes[rank])


def _exit_with_parent() -> None:
    """Ends this process when its parent ends: a parent that is killed cannot end its children."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


class PhaseStep:
    """A pipeline step of datatrove, which calls it with each rank: a phase's task."""

    def __init__(self, task: Task, phase: str):
        self._task, self._phase = task, phase

    def __call__(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        self._task(self._phase, rank)


def _ray(run: FilterRun, task: Task) -> None:
    import ray
    from datatrove.executor.ray import RayPipelineExecutor

    if not ray.is_initialized():
        # Ray's own choice: the cluster that RAY_ADDRESS names, else one on this machine.
        ray.init(log_to_driver=False, configure_logging=False)
    for phase in run.phases():
        if left := filter_run.unfinished(run, phase.name):
            executor = RayPipelineExecutor(
                [PhaseStep(task, phase.name)],
                tasks=len(phase.sizes),
                workers=run.cfg.work.workers or int(ray.cluster_resources()["CPU"]),
                logging_dir=str(run.out / "logs" / phase.name),
                skip_completed=False,
                mem_per_cpu_gb=1,
            )
            executor.run()
            failed = sum(not run.task_folder(phase.name, rank).is_dir() for rank in left)
            if phase.name != "finish" and failed:
                raise Failure(
                    f"{failed} of {len(left)} tasks of the phase {phase.name} failed: see "
                    f"{executor.logging_dir.path}/logs; the same command resumes the run"
                )


def _slurm(run: FilterRun, task: Task) -> None:
    from datatrove.executor.slurm import SlurmPipelineExecutor

    work, last = run.cfg.work, None
    for phase in run.phases():
        if filter_run.unfinished(run, phase.name):
            last = SlurmPipelineExecutor(
                [PhaseStep(task, phase.name)],
                tasks=len(phase.sizes),
                time=work.slurm_time,
                partition=work.slurm_partition,
                mem_per_cpu_gb=work.slurm_mem_gb,
                workers=work.workers or -1,
                job_name=f"filter-{phase.name}",
                qos="",
                venv_path=str(Path(sys.prefix) / "bin" / "activate"),
                logging_dir=str(run.out / "logs" / phase.name),
                skip_completed=False,
                depends=last,
            )
    if last is not None:
        try:
            last.run()
        except FileNotFoundError as error:
            raise ConfigError(
                "--executor=slurm: no sbatch on this machine; start the command on a login node"
            ) from error


_EXECUTORS = {"local": _local, "ray": _ray, "slurm": _slurm}
