"""The revise phase of ./launch/run constitutional: completions, critiques, revisions, and SL-CAI's data set."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtrain import config, worlds
from jaxtrain.apps.constitutional import phase, revise
from jaxtrain.apps.constitutional.config import Constitutional, RevisePhase
from jaxtrain.apps.constitutional.phase import PhaseRun
from jaxtrain.apps.constitutional.principles import Constitution
from jaxtrain.config import Failure
from jaxtrain.data.messages import Message
from jaxtrain.data.preferences_db import prompt_field
from jaxtrain.data.prompts import Prompt, question, read_conversations
from jaxtrain.files import terminal
from jaxtrain.inference.llm import Request, derive_seed

_HELPFUL = 20  # what a seed is for


def run(cfg: Constitutional, constitution: Constitution) -> Path:
    """The path of the data set, written where it is missing."""
    settings = RevisePhase(cfg.asked, cfg.critic, cfg.revising, cfg.reading)
    return phase.run_phase(cfg, constitution, "revise", settings, "revisions.jsonl", _generate)


def _generate(cfg: Constitutional, run: PhaseRun) -> None:
    task, options = cfg.asked, cfg.revising
    dialogs = config.dialogs_of(cfg.reading, cfg.machine.cache_dir)
    prompts = read_conversations(task.data, "data", dialogs, task.prompt_count)
    source = options.helpful_of(task.data)
    helpful = read_conversations(source, "helpful", dialogs, 0) if source else []
    revision = revise.RevisionConfig(
        policy=run.policy, critic=run.critic, seed=task.seed, rounds=options.rounds, critique=options.critique,
        temperature=task.temperature, max_new=task.max_new,
        is_valid=_in_grammar if options.grammar else lambda messages, text: True,
    )  # fmt: skip
    terminal.note([
        ("models", f"{run.policy.name} answers, {run.critic.model.name} revises"),
        ("prompts", f"{len(prompts):,} of {task.data}, {len(helpful):,} of {source or 'nothing'}"),
    ])  # fmt: skip

    def generate(units: range) -> list[dict[str, Any]]:
        """Units below len(prompts) are revised, the others are of the helpful prompts."""
        revised = [unit for unit in units if unit < len(prompts)]
        chains = (
            revise.revise(revision, [prompts[unit].messages for unit in revised], revised) if revised else []
        )
        places = [unit - len(prompts) for unit in units if unit >= len(prompts)]
        return [row for chain in chains for row in chain] + _helpful_rows(
            revision, helpful, places, options.helpful_samples
        )

    rows = phase.journalled_rows(run, len(prompts) + len(helpful), "revisions", generate)
    _finish(run, prompts, rows, options.keep)


def _finish(run: PhaseRun, prompts: Sequence[Prompt], rows: Sequence[dict[str, Any]], keep: str) -> None:
    """Writes the data set, the rounds behind it, and the report."""
    rounds = [
        {"prompt": prompt_field(list(prompts[row["unit"]].messages)), "source": prompts[row["unit"]].name} | row
        for row in rows
        if "round" in row
    ]  # fmt: skip
    records = [
        record
        for chain in revise.chains_of(rounds).values()
        for record in revise.training_rows(lambda unit: prompts[unit].messages, chain, keep)
    ]
    helpful = [row for row in rows if "round" not in row]
    records += [row for row in helpful if "fault" not in row]
    if not records:
        raise Failure(
            f"no row is left to train on: {run.folder / phase.JOURNAL} has the reason of each under 'fault'"
        )
    faults = phase.fault_counts(rows)
    files = {
        "rounds.jsonl": rounds,
        "helpful_left_out.jsonl": [row for row in helpful if "fault" in row],
        "revisions.jsonl": records,
    }
    phase.finish(run, files, prompts=len(prompts), rows=len(records), faults=faults)
    terminal.note([
        ("rows", f"{len(records):,} in {run.folder / 'revisions.jsonl'}"), ("left out", phase.fault_text(faults)),
    ])  # fmt: skip


def _in_grammar(messages: tuple[Message, ...], text: str) -> bool:
    """Whether the world has this answer in its language, right or wrong; true of prompts that no world knows."""
    prompt = question(messages)
    world = worlds.world_of_prompt(prompt)
    return world is None or world.judge(prompt, text).parsable


def _helpful_rows(
    revision: revise.RevisionConfig, helpful: list[Prompt], places: list[int], samples: int
) -> list[dict[str, Any]]:
    """The policy's own completions of harmless prompts."""
    requests = [
        Request(
            helpful[i].messages, samples, derive_seed(revision.seed, i, _HELPFUL), revision.temperature,
            revision.max_new,
        )
        for i in places
    ]  # fmt: skip
    rows = []
    for i, replies in zip(places, revision.policy.generate(requests) if requests else [], strict=True):
        for g, reply in enumerate(replies):
            row = {
                "prompt": prompt_field(list(helpful[i].messages)),
                "completion": [reply.message()] if reply.thought else reply.text.strip(),
                "kind": "helpful", "model": revision.policy.name, "seed": revision.seed, "unit": i, "sample": g,
                "source": helpful[i].name,
            }  # fmt: skip
            fault = revise.fault_of(reply)
            rows.append(row | ({"fault": f"helpful answer {fault}"} if fault else {}))
    return rows
