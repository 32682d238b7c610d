"""Runs an experiment on its seeds and writes what they say: result.json of each seed and of all, and the figure."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from jaxtrain import config
from jaxtrain.apps.papers import figures, verdicts
from jaxtrain.apps.papers.config import PaperTrial
from jaxtrain.apps.papers.shared_runs import SharedRuns
from jaxtrain.apps.papers.verdicts import Check, Paper, Result
from jaxtrain.config import ConfigError
from jaxtrain.files import accelerators, atomic, locks, paths, processes, terminal

RESULT, LOCK = "result.json", "lock"
_ANYWHERE = ("workdir", "seeds", "first_seed", "jobs", "shared", "cache_dir")  # flags that decide no number

# What an experiment is, beside its flags and its Paper:
Measure = Callable[[Any, SharedRuns], Result]  # (config, runs of a seed) -> numbers, as JSON has them
Judge = Callable[[Any, Sequence[Result]], list[Check]]
Draw = Callable[[Any, Sequence[Result], Any], None]  # the last is a matplotlib Figure


def run(paper: Paper, cfg: Any, measure: Measure, judge: Judge, draw: Draw) -> dict[str, Any]:
    """Runs what is not finished of the seeds, two or more at once, writes the results, and prints the verdict.

    cfg: a config with the group `trial`, a PaperTrial. Raises Failure where a seed fails; the others' results stay.
    """
    trial: PaperTrial = cfg.trial
    check_size(paper, trial.size)
    check_hardware(trial.size)
    folder = folder_of(trial, paper.name)
    seeds = range(trial.first_seed, trial.first_seed + trial.seeds)
    with locks.exclusive(folder / LOCK, folder):
        flags = _flags(cfg)
        results = {seed: read_result(folder, seed, flags) for seed in seeds}
        todo = [seed for seed, result in results.items() if result is None]
        print(
            f"{paper.title}: {terminal.singular(f'{len(seeds)} seeds')}, {len(todo)} to run, in {folder}",
            flush=True,
        )
        results |= _measured(cfg, measure, todo, folder, flags)
        result = _write(paper, cfg, folder, judge, draw, results)
    print("\n".join(summary(paper, result, folder)))
    return result


def folder_of(trial: PaperTrial, name: str) -> Path:
    """The folder of an experiment's results."""
    chosen = Path("runs") / "papers" / name if trial.workdir == "auto" else Path(trial.workdir)
    return paths.absolute(chosen)


def check_size(paper: Paper, size: str) -> None:
    """Raises ConfigError for a size that an experiment does not have."""
    if size not in paper.sizes:
        raise ConfigError(
            f"--size={size}: {paper.name} has {', '.join(paper.sizes)} alone; leave the flag out, or see the --size of "
            "dpo_frontier, overoptimization, instructgpt and chinchilla_fit"
        )


def check_hardware(size: str) -> None:
    """Raises ConfigError for a size that this machine cannot run in a reasonable time."""
    if size == "gpu" and not accelerators.present():
        raise ConfigError(
            "--size=gpu: there is no GPU or TPU here. Its models of 10M to 150M parameters take about 8 minutes on one "
            "H100, and days on a CPU: run it there, or take --size=cpu"
        )


def _flags(cfg: Any) -> dict[str, Any]:
    """The flags that a result depends on, as JSON has them."""
    given = {field.name: value for _, field, value in config.leaves(cfg) if field.name not in _ANYWHERE}
    return json.loads(config.dumps(given))


def seed_folder(folder: Path, seed: int) -> Path:
    """The folder of a seed's result."""
    return folder / f"seed{seed}"


def read_result(folder: Path, seed: int, flags: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """The record of a finished seed: {"seed", "flags", "values", "seconds"}; None where there is none or a damaged one.

    Raises ConfigError where it is of other flags.
    """
    try:
        record = atomic.read_sealed(seed_folder(folder, seed) / RESULT)
        before = record["flags"]
        record["values"], record["seconds"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    if flags is not None and before != flags:
        changed = sorted(name for name in {*before, *flags} if before.get(name) != flags.get(name))
        raise ConfigError(
            f"--workdir={folder} holds results of other flags ({', '.join(f'--{name}' for name in changed)}): name "
            "another folder, or remove this one"
        )
    return record


def _measured(
    cfg: Any, measure: Measure, seeds: Sequence[int], folder: Path, flags: Mapping[str, Any]
) -> dict[int, dict[str, Any]]:
    """Measures seeds, --jobs at once, and writes the result of each when it ends."""
    children = processes.ChildProcesses()

    def one(seed: int) -> dict[str, Any]:
        started = time.monotonic()
        shared = Path(cfg.trial.shared)
        runs = SharedRuns(shared, seed, cfg.trial.cache_dir, children)
        values = measure(cfg, runs)
        seconds = time.monotonic() - started + runs.seconds_before()
        record = {
            "seed": seed,
            "flags": {**flags},
            "values": json.loads(config.dumps(values)),
            "seconds": seconds,
        }
        place = seed_folder(folder, seed)
        place.mkdir(exist_ok=True)
        atomic.write_sealed(place / RESULT, record)
        print(f"seed {seed}  finished, {seconds / 60:.1f} min with the runs that were there", flush=True)
        return record

    jobs = cfg.trial.jobs or accelerators.jobs()
    with ThreadPoolExecutor(jobs) as pool, children:
        futures = {pool.submit(one, seed): seed for seed in seeds}
        while True:
            # With a timeout the main thread answers signals between.
            ended, running = wait(futures, timeout=0.5, return_when=FIRST_EXCEPTION)
            failed = [future for future in ended if future.exception()]
            if failed or not running:
                break
        for future in running:
            future.cancel()
        return {futures[future]: future.result() for future in ([*failed] or futures)}


def _write(
    paper: Paper, cfg: Any, folder: Path, judge: Judge, draw: Draw, results: Mapping[int, Mapping[str, Any]]
) -> dict[str, Any]:
    """Writes result.json of all seeds, and the figure; returns the result."""
    values = [one["values"] for one in results.values()]
    checks = judge(cfg, values)
    result = {
        "paper": paper._asdict(),
        "size": cfg.trial.size,
        "seeds": [*results],
        "minutes": sum(one["seconds"] for one in results.values()) / 60,
        "verdict": verdicts.verdict(checks, len(results)),
        "checks": [check._asdict() for check in checks],
    }
    figures.write(folder, lambda figure: draw(cfg, values, figure))
    atomic.write_sealed(folder / RESULT, result)
    return result


def summary(paper: Paper, result: Mapping[str, Any], folder: Path) -> list[str]:
    """The verdict as lines for a terminal."""
    words = {True: "holds", False: "does not hold", None: "open"}
    table = [("claim", f"{paper.claim} ({paper.source}, {paper.figure})"), ("published", paper.published)]
    for check in result["checks"]:
        table.append(("criterion", check["criterion"]))
        table.append((words[check["passed"]], check["numbers"]))
    seeds = terminal.singular(f"{len(result['seeds'])} seeds")
    table.append(("verdict", f"{result['verdict']}, {seeds}"))
    table.append(("written", f"{folder / RESULT}, {folder / figures.LIGHT}"))
    return terminal.lines(table)
