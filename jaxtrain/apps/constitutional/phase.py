"""What both phases of ./launch/run constitutional share: the models, journalled rows, and the finished files."""

import collections
import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxtrain import config
from jaxtrain.apps.constitutional import report
from jaxtrain.apps.constitutional.config import ComparePhase, Constitutional, RevisePhase
from jaxtrain.apps.constitutional.principles import Constitution
from jaxtrain.apps.constitutional.revise import Critic
from jaxtrain.config import ConfigError
from jaxtrain.files import atomic, journal, terminal
from jaxtrain.files.progress import bar
from jaxtrain.inference.llm import LLM
from jaxtrain.inference.llm_pool import LLMPool
from jaxtrain.train import watchdog

BATCH = 64  # prompts between two writes
JOURNAL = "part.jsonl"


class PhaseRun(NamedTuple):
    """A phase under way: its folder, its models, and what its rows depend on."""

    folder: Path
    settings: RevisePhase | ComparePhase  # the groups of the config that decide the rows
    made_by: dict[str, str]  # the constitution's fingerprint and the models' names, which decide them too
    policy: LLM
    critic: Critic


@contextlib.contextmanager
def open_models(cfg: Constitutional, constitution: Constitution) -> Iterator[tuple[LLM, Critic]]:
    """(the policy, the critic), of one model where --critic is empty. Raises ConfigError."""
    task, options = cfg.asked, cfg.critic
    with contextlib.closing(LLMPool(cfg.endpoint, cfg.machine)) as pool:
        policy = pool.open(task.init_from, "init_from", max(task.max_new, options.critic_max_new))
        model = pool.open(options.critic or task.init_from, "critic", options.critic_max_new)
        pages = options.prompting == "base" or (options.prompting == "auto" and not model.remote)
        if not pages and not model.chat:
            raise ConfigError(
                f"--critic={model.name}: it has no chat template to read instructions with: --prompting=base"
            )
        if pages and model.remote and task.phase != "revise":
            raise ConfigError(
                f"--critic={model.name}: endpoints give log-probabilities in a chat alone: --prompting=instruct"
            )
        yield policy, Critic(model, constitution, pages, options.critic_temperature, options.critic_max_new)


def run_phase(
    cfg: Constitutional,
    constitution: Constitution,
    name: str,
    settings: RevisePhase | ComparePhase,
    out: str,
    generate: Callable[[Constitutional, PhaseRun], None],
) -> Path:
    """The path of a phase's data set, WORKDIR/name/out, which `generate` writes where it is missing.

    `generate` ends with `finish`; `settings` are the groups of the config that decide the rows.
    """
    folder = Path(cfg.asked.workdir).expanduser() / name
    with watchdog.watch(None, folder.parent), open_models(cfg, constitution) as (policy, critic):
        made_by = {
            "constitution": constitution.fingerprint,
            "model": policy.name,
            "critic": critic.model.name,
        }
        run = PhaseRun(folder=folder, settings=settings, made_by=made_by, policy=policy, critic=critic)
        if is_finished(run):
            terminal.note([(Path(out).stem, f"already there: {folder / out}")])
            (folder / JOURNAL).unlink(missing_ok=True)  # of a kill after the report was written
        else:
            generate(cfg, run)
    report.write(folder.parent, constitution)
    return folder / out


def journalled_rows(
    run: PhaseRun,
    total: int,
    title: str,
    generate: Callable[[range], Sequence[Mapping[str, Any]]],
    check: Callable[[list[dict[str, Any]], bool], None] = lambda rows, done: None,
) -> list[dict[str, Any]]:
    """The rows of units 0..total-1 in order, generated in batches; those in the journal are reused.

    `check` gets all rows so far, and whether they are all.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    path = run.folder / JOURNAL
    with contextlib.closing(journal.Journal(path, run.settings)) as work:
        for batch in work.batches:
            if batch["made_by"] != run.made_by:
                other = {
                    key: value for key, value in batch["made_by"].items() if value != run.made_by.get(key)
                }
                raise ConfigError(f"{path} was made by {other}: name another --workdir")
        rows = [row for batch in work.batches for row in batch["rows"]]
        first = work.batches[-1]["next"] if work.batches else 0
        if first:
            terminal.note([("resuming", f"{first:,} of {total:,} prompts are done")])
        with bar(title, total, least=BATCH + 1) as advance:
            advance(first)
            while first < total:
                units = range(first, min(first + BATCH, total))
                new = json.loads(json.dumps(list(generate(units))))  # as a later process reads them
                work.add({"rows": new, "next": units.stop, "made_by": run.made_by})
                rows += new
                first = units.stop
                advance(len(units))
                check(rows, first == total)
    check(rows, True)
    return rows


def is_finished(run: PhaseRun) -> bool:
    """Whether a phase is done. Raises ConfigError where another command did it, or a file of it is damaged."""
    saved = report.read_phase(run.folder)
    if saved is None:
        return False
    changed = config.difference(saved["config"], run.settings)
    changed += [
        f"{key}: {saved['made_by'].get(key)} -> {value}"
        for key, value in run.made_by.items()
        if saved["made_by"].get(key) != value
    ]
    if changed:
        raise ConfigError(
            "\n  ".join([f"{run.folder} is of another command; name another --workdir, or:", *changed])
        )
    return True


def finish(run: PhaseRun, files: Mapping[str, Sequence[Mapping[str, Any]]], **counts: Any) -> None:
    """Writes the files, the report last, and removes the journal."""
    for name, rows in files.items():
        atomic.write_jsonl(run.folder / name, rows)
    summary = {**counts, "made_by": run.made_by, "config": dataclasses.asdict(run.settings)}
    report.write_phase(run.folder, summary, list(files))
    (run.folder / JOURNAL).unlink(missing_ok=True)


def fault_counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many rows have each fault."""
    return dict(collections.Counter(row["fault"] for row in rows if "fault" in row))


def fault_text(counts: Mapping[str, int]) -> str:
    """The counts of faults as one line."""
    return ", ".join(f"{n:,} {name}" for name, n in sorted(counts.items())) or "nothing"
