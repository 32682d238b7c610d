"""What the phases of ./launch/run constitutional share: its models, work kept as it is done, what is left of it."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxtrain import config
from jaxtrain.apps.constitutional import report
from jaxtrain.apps.constitutional.config import Constitutional
from jaxtrain.apps.constitutional.principles import Constitution
from jaxtrain.apps.constitutional.report import REPORT
from jaxtrain.apps.constitutional.revise import Critic
from jaxtrain.config import ConfigError
from jaxtrain.files import atomic, journal, terminal
from jaxtrain.files.progress import bar
from jaxtrain.inference import local
from jaxtrain.inference.llm import LLM

AT_ONCE = 64  # prompts between two writes


class PhaseModels(NamedTuple):
    speaker: LLM
    critic: Critic


@contextlib.contextmanager
def open_models(cfg: Constitutional, constitution: Constitution) -> Iterator[PhaseModels]:
    """The model that answers and the one that judges, one model where --critic is empty. Raises ConfigError."""
    asked, how = cfg.asked, cfg.critic
    with contextlib.ExitStack() as stack:
        speaker = local.open_llm(
            asked.init_from, "init_from", cfg.endpoint, cfg.machine, max(asked.max_new, how.critic_max_new)
        )
        stack.callback(speaker.close)
        model = speaker
        if how.critic and how.critic != asked.init_from:
            model = local.open_llm(how.critic, "critic", cfg.endpoint, cfg.machine, how.critic_max_new)
            stack.callback(model.close)
        pages = how.prompting == "base" or (how.prompting == "auto" and not model.remote)
        if not pages and not model.chat:
            raise ConfigError(
                f"--critic={model.name}: it has no chat template to read instructions with: --prompting=base"
            )
        if pages and model.remote and asked.phase != "revise":
            raise ConfigError(
                f"--critic={model.name}: endpoints give log-probabilities in a chat alone: --prompting=instruct"
            )
        yield PhaseModels(
            speaker, Critic(model, constitution, pages, how.critic_temperature, how.critic_max_new)
        )


def run_phase(
    cfg: Constitutional,
    constitution: Constitution,
    name: str,
    part: Any,
    out: str,
    make: Callable[[PhaseModels, Path, dict[str, str]], None],
) -> Path:
    """A phase's data set WORKDIR/name/out, which `make` makes where it is missing.

    `make(models, folder, made_by)` ends with `finish`; `part` is the share of the config that decides the rows.
    """
    folder = Path(cfg.asked.workdir).expanduser() / name
    with open_models(cfg, constitution) as models:
        made_by = {
            "constitution": constitution.fingerprint,
            "model": models.speaker.name,
            "critic": models.critic.model.name,
        }
        if is_finished(folder, part, made_by):
            terminal.note([(Path(out).stem, f"they are there: {folder / out}")])
            return folder / out
        make(models, folder, made_by)
    report.write(folder.parent, constitution)
    return folder / out


def journalled_rows(
    folder: Path,
    part: Any,
    made_by: Mapping[str, str],
    total: int,
    title: str,
    make: Callable[[range], Sequence[Mapping[str, Any]]],
    check: Callable[[list[dict[str, Any]], bool], None] = lambda rows, done: None,
) -> list[dict[str, Any]]:
    """The rows of units 0..total-1 in order, made in batches; those of an earlier process are taken as they are.

    `part` is the share of the config that decides them, `made_by` names what else does. `check` sees all rows so far,
    and whether they are all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(journal.Journal(folder / "part.jsonl", part)) as held:
        for batch in held.batches:
            if batch["made_by"] != made_by:
                was = {name: said for name, said in batch["made_by"].items() if said != made_by.get(name)}
                raise ConfigError(f"{folder / 'part.jsonl'} was made by {was}: name another --workdir")
        rows = [row for batch in held.batches for row in batch["rows"]]
        first = held.batches[-1]["next"] if held.batches else 0
        if first:
            terminal.note([("resuming", f"{first:,} of {total:,} prompts are done")])
        with bar(title, total, least=AT_ONCE + 1) as advance:
            advance(first)
            while first < total:
                units = range(first, min(first + AT_ONCE, total))
                new = json.loads(json.dumps(list(make(units))))  # as a later process reads them
                held.add({"rows": new, "next": units.stop, "made_by": dict(made_by)})
                rows += new
                first = units.stop
                advance(len(units))
                check(rows, first == total)
    check(rows, True)
    return rows


def is_finished(folder: Path, part: Any, made_by: Mapping[str, str]) -> bool:
    """Whether a phase is done. Raises ConfigError where another command did it."""
    file = folder / REPORT
    if not file.exists():
        return False
    held = json.loads(file.read_text(encoding="utf-8"))
    changed = config.difference(held["config"], part)
    changed += [
        f"{name}: {held['made_by'].get(name)} -> {said}"
        for name, said in made_by.items()
        if held["made_by"].get(name) != said
    ]
    if changed:
        raise ConfigError(
            "\n  ".join([f"{folder} is of another command; name another --workdir, or:", *changed])
        )
    return True


def finish(
    folder: Path,
    part: Any,
    made_by: Mapping[str, str],
    files: Mapping[str, Sequence[Mapping[str, Any]]],
    **told: Any,
) -> None:
    """Writes the files whole, the report last, and removes the journal."""
    for name, rows in files.items():
        atomic.write_jsonl(folder / name, rows)
    report = {**told, "made_by": dict(made_by), "config": dataclasses.asdict(part)}
    atomic.write_text(folder / REPORT, config.dumps(report) + "\n")
    (folder / "part.jsonl").unlink(missing_ok=True)
