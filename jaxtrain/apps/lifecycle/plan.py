"""The stages of the whole lifecycle as data, and their runner: each stage is its own command in a subprocess."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

from jaxtrain.config import Failure
from jaxtrain.files import atomic, checksums, processes
from jaxtrain.train import best_checkpoint, metrics, workdir

MAX_NEW = 48
TIMES, LOGS, ANSWERS = "times.json", "logs", "answers"
SUMS = "sha256"  # in times.json, of the files of a step's completions
SAMPLED = "completions-"  # before a step's name: the sampling of its completions
AUDIT = "audit.json"  # of ./launch/run constitutional


class AnswerSet(NamedTuple):
    """Prompts on which all policies are compared, and how many completions of each."""

    prompts: str
    samples: int


# The second is of the 45 held-out questions whose answer is one word: too few of them are in the first to see 5 points.
# So many samples that a standard error is at most half a point in parsable, and one in a difference of spelling.
ALL, CLOSED = "all", "closed"
ANSWER_SETS = {
    ALL: AnswerSet("tinytown:prompts:test", 12),
    CLOSED: AnswerSet("tinytown:prompts:test?family=fact,tinytown:prompts:test?family=str", 96),
}


class Target(NamedTuple):
    """A target of a stage: `measure` at least `low`, or at most `high`.

    gain: as a gain over the model before, or over the stage that `over` names.
    """

    measure: str
    low: float | None = None
    high: float | None = None
    gain: bool = False
    over: str = ""


# What training on preferences must not unlearn: at most 5 points.
RIGHT = tuple(Target(measure, low=-0.05, gain=True) for measure in ("steps", "facts", "spelling"))


class LifecycleStep(NamedTuple):
    """A stage: its run's name, its command, the runs it needs, and its targets.

    The first run it needs that is a policy is the model before it. {NAME} in a flag is the folder of the run NAME, with
    @best where that step has a `best`, a value of --keep_best: later stages and its completions take that checkpoint.
    """

    name: str
    stage: str
    title: str
    flags: tuple[str, ...]
    needs: tuple[str, ...]
    claims: tuple[Target, ...]
    answers: bool = True  # whether it is a policy, whose completions are measured
    best: str = ""


class _Job(NamedTuple):
    """Commands that run one after another, once the jobs that they need are done."""

    name: str
    needs: tuple[str, ...]
    commands: list[list[str]]
    files: tuple[Path, ...] = ()  # that they write; their checksums are recorded


# Flags of each stage on Tinytown, without the runs that it starts from.
RECIPES = {
    "pretrain": ("--sample_every=0", "--steps=800", "--optimizer=muon", "--lr=0.01"),
    "sft": (
        "--data=tinytown:sft?detail=.45&warn=.5&refuse=.2", "--loss=dft", "--dft_power=0.3", "--steps=300",
        "--eval_every=0", "--optimizer=muon", "--lr=0.004", "--end_lr=0"),
    "reward": (
        "--data=tinytown:preferences?documents=8000&balk=.1&detail=.5&warn=.5", "--steps=250",
        "--eval_data=tinytown:preferences:test", "--optimizer=muon", "--lr=0.002", "--end_lr=0"),
    "ppo": ("--steps=60", "--batch_size=128", "--epochs=1", "--lr=6e-4", "--entropy_coef=-0.15"),
    "dpo": (
        "--data=tinytown:preferences?documents=9600&slip=.2&detail=.5&warn=.5", "--steps=300", "--beta=0.3",
        "--nll_weight=0.3", "--optimizer=muon", "--lr=1e-3", "--end_lr=0"),
    "constitutional": (
        "--loss=dft", "--dft_power=0.5", "--steps=250", "--batch_size=8", "--eval_every=0", "--optimizer=muon",
        "--lr=0.004"),
}  # fmt: skip


def steps() -> list[LifecycleStep]:
    """The whole lifecycle on Tinytown; earlier stages are started first."""
    return [
        LifecycleStep("pretrain", "pretrain", "pretraining", RECIPES["pretrain"], (),
             (Target("eval/bits_per_byte_above_entropy", high=0.15),)),
        LifecycleStep("sft", "sft", "supervised fine-tuning", ("--init_from={pretrain}", *RECIPES["sft"]),
             ("pretrain",),
             (Target("parsable", low=0.9), Target("steps", low=0.9), Target("gold", low=1, gain=True))),
        LifecycleStep("reward", "reward", "a reward model", ("--init_from={sft}", *RECIPES["reward"]), ("sft",),
             (Target("eval/gold_accuracy", low=0.8),), False),
        LifecycleStep("ppo", "ppo", "PPO with KL", (
            "--init_from={sft}", "--reward_model={reward}", *RECIPES["ppo"]), ("sft", "reward"), (
            Target("gold", low=1, gain=True), Target("harmful", high=0.1), Target("detail", low=0.9),
            Target("warn", low=0.8), Target("parsable", low=0.95), Target("objective/kl", high=4), *RIGHT,
            Target("gold", low=-0.1, gain=True, over="dpo"))),
        LifecycleStep("dpo", "dpo", "DPO", ("--init_from={sft}", *RECIPES["dpo"]), ("sft",), (
            Target("gold", low=1, gain=True), Target("harmful", high=0.1), Target("parsable", low=0.95), *RIGHT)),
        LifecycleStep("revise", "constitutional", "critiques and revisions", (
            "--phase=revise", "--init_from={sft}", "--critic={pretrain}", "--keep=last",
            "--rounds=6", "--helpful=tinytown:prompts?family=help", "--helpful_samples=2"), ("sft", "pretrain"), (
            Target("harmful", high=0.2), Target("parsable", low=0.95)), False),
        LifecycleStep("constitutional", "sft", "SL-CAI, on the revisions", (
            "--init_from={pretrain}", "--data=jsonl:{revise}/revise/revisions.jsonl", *RECIPES["constitutional"]),
            ("sft", "pretrain", "revise"), (
            Target("harmful", high=0.15), Target("refuse", low=0.9), Target("parsable", low=0.95))),
        LifecycleStep("distill", "distill", "distillation into a fifth of the size", (
            "--teacher={ppo}", "--steps=400", "--optimizer=muon", "--lr=0.01"),
             ("ppo",), (Target("eval/divergence", high=0.1), Target("gold", low=1.5), Target("parsable", low=0.9))),
    ]  # fmt: skip


def open_folder(folder: Path) -> Path:
    """The folder of all stages, created where it is missing."""
    (folder / LOGS).mkdir(parents=True, exist_ok=True)
    (folder / ANSWERS).mkdir(exist_ok=True)
    return folder


def answers_of(folder: Path, name: str, answer_set: str = ALL) -> Path:
    """The file of a model's completions of one of ANSWER_SETS."""
    return folder / ANSWERS / (f"{name}.jsonl" if answer_set == ALL else f"{name}.{answer_set}.jsonl")


def train(
    steps: Sequence[LifecycleStep],
    folder: Path,
    show_of: Callable,
    *,
    jobs: int,
    seed: int,
    cache_dir: str,
    jitter: float = 0.0,
) -> dict[str, dict[str, Any]]:
    """Runs what is not done of the steps; returns {step, or SAMPLED + step: {"began", "seconds", "commands"}} of all.

    Completions are sampled while later stages train. Raises Failure where a command fails, after ending the others.
    """
    file = folder / TIMES
    times = _read_times(file)
    runs = {step.name: f"{folder / step.name}{'@best' * bool(step.best)}" for step in steps}
    shared = (f"--seed={seed}", f"--cache_dir={cache_dir}")
    work = _jobs(steps, folder, runs, shared, jitter)
    done: set[str] = set()
    for job in work:  # what a job needs stands before it; where that is not done, neither is the job
        before = times.get(job.name, {})
        if before.get("commands") == job.commands and {*job.needs} <= done and _intact(folder, before[SUMS]):
            done.add(job.name)
    under_way: dict[Future, _Job] = {}
    running = processes.ChildProcesses()
    with (
        show_of(steps, folder, done) as show,
        ThreadPoolExecutor(jobs) as pool,
        running,
    ):
        while len(done) < len(work):
            busy = {job.name for job in under_way.values()}
            for job in work:
                if job.name not in done | busy and {*job.needs} <= done and len(under_way) < jobs:
                    busy.add(job.name)
                    show.start(job.name)
                    under_way[pool.submit(_run, job, folder / LOGS / f"{job.name}.log", running)] = job
            finished, _ = wait(under_way, timeout=0.5, return_when=FIRST_COMPLETED)
            for one in finished:
                job = under_way.pop(one)
                started, seconds = one.result()
                times[job.name] = {
                    "began": started, "seconds": seconds, "commands": job.commands,
                    SUMS: {str(path.relative_to(folder)): checksums.of_file(path) for path in job.files},
                }  # fmt: skip
                atomic.write_sealed(file, times)
                done.add(job.name)
                show.finish(job.name, seconds)
            show.tick()
    return times


def _read_times(file: Path) -> dict[str, dict[str, Any]]:
    """The content of times.json; a damaged one is moved aside, with a line, and all steps run again from their ends."""
    try:
        times = atomic.read_sealed(file) if file.exists() else {}
        return {
            name: {key: one[key] for key in ("began", "seconds", "commands")} | {SUMS: {**one.get(SUMS, {})}}
            for name, one in times.items()
        }
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        aside = file.with_name(f"{TIMES}.damaged")
        file.replace(aside)
        print(
            f"{file} is damaged ({error}): moved to {aside.name}; finished stages are sampled from again, and their "
            "time is that of this call",
            file=sys.stderr,
            flush=True,
        )
        return {}


def _intact(folder: Path, sums: Mapping[str, str]) -> bool:
    """Whether the files are as they were written; a line names each that is not."""
    wrong = [
        name
        for name, sum_ in sums.items()
        if not (folder / name).exists() or checksums.of_file(folder / name) != sum_
    ]
    for name in wrong:
        print(
            f"{folder / name} is missing or differs from what was written: its completions are sampled again",
            file=sys.stderr,
            flush=True,
        )
    return not wrong


def starts_fresh(step: LifecycleStep) -> bool:
    """Whether a stage draws its own initial parameters, which --jitter moves."""
    return not any(flag.startswith("--init_from=") for flag in step.flags)


def _jobs(
    steps: Sequence[LifecycleStep],
    folder: Path,
    runs: Mapping[str, str],
    shared: Sequence[str],
    jitter: float,
) -> list[_Job]:
    """The training of each step, then what samples its completions; `runs` are those that flags may name."""
    training, sampling = [], []
    for step in steps:
        where = {name: runs[name] for name in step.needs}
        own = [f"--keep_best={step.best}"] if step.best else []
        own += [f"--jitter={jitter!r}"] if jitter and starts_fresh(step) else []
        flags = [text.format_map(where) for text in step.flags]
        command = [step.stage, *flags, *own, f"--workdir={folder / step.name}", *shared]
        training.append(_Job(step.name, step.needs, [command]))
        if step.answers:
            files = [answers_of(folder, step.name, name) for name in ANSWER_SETS]
            commands = [
                ["sample", f"--init_from={runs[step.name]}", f"--prompts={prompts}", f"--samples={samples}",
                 f"--max_new={MAX_NEW}", f"--out={file}", *shared]
                for file, (prompts, samples) in zip(files, ANSWER_SETS.values(), strict=True)
            ]  # fmt: skip
            sampling.append(_Job(SAMPLED + step.name, (step.name,), commands, tuple(files)))
    return training + sampling


def _run(job: _Job, log: Path, running: processes.ChildProcesses) -> tuple[float, float]:
    """(start time, seconds) of the commands, which print to the log."""
    started = time.time()
    for file in job.files:
        file.unlink(missing_ok=True)  # of an earlier command; `sample` writes new files only
    with log.open("w", encoding="utf-8") as out:
        for stage, *flags in job.commands:
            command = [sys.executable, "-P", "-m", f"experiments.{stage}", *flags]
            if status := running.call(command, stdout=out, stderr=subprocess.STDOUT):
                out.flush()
                last = "\n".join(f"  {line}" for line in log.read_text().splitlines()[-12:])
                raise Failure(
                    f"{stage} ended with status {status}; its last lines:\n{last}\nAll of them are in {log}; "
                    "the same command resumes from here"
                )
    return started, time.time() - started


def busy_seconds(times: Mapping[str, Mapping[str, Any]]) -> float:
    """Seconds in which at least one stage ran."""
    total = end = 0.0
    for start, stop in sorted((one["began"], one["began"] + one["seconds"]) for one in times.values()):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def rows(folder: Path) -> list[dict[str, Any]]:
    """The readable lines of a run's metrics.jsonl; of revisions one a round."""
    if (folder / AUDIT).exists():
        rounds = json.loads((folder / AUDIT).read_text(encoding="utf-8"))["rounds"]
        return [{"step": one["round"], **one} for one in rounds]
    return metrics.read_rows(folder / metrics.FILE)[0]


def total(folder: Path) -> int | None:
    """The number of steps of a run; None while it has no config.json."""
    if not (folder / workdir.CONFIG).exists():
        return None
    return workdir.read_run(folder)["config"]["run"]["steps"]


def taken(step: LifecycleStep, folder: Path) -> int | None:
    """The step of the checkpoint that later stages take; None where it is the last. Raises ConfigError."""
    checkpoints = folder / step.name / workdir.CHECKPOINTS
    if not step.best:
        return None
    return best_checkpoint.best_step(checkpoints, workdir.saved_steps(checkpoints), str(folder / step.name))


def latest(rows: Sequence[Mapping[str, Any]], until: int | None = None) -> dict[str, float]:
    """The last value of each metric, up to the step `until`."""
    return {
        name: value
        for row in rows
        if until is None or row["step"] <= until
        for name, value in row.items()
        if isinstance(value, int | float)
    }
