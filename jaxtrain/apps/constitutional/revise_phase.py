"""The first phase of ./launch/run constitutional: answers, critiques, revisions, and the data that SL-CAI learns."""

import collections
import dataclasses
import functools
from pathlib import Path
from typing import Any

from jaxtrain import config
from jaxtrain.apps.constitutional import phase, revise
from jaxtrain.apps.constitutional.config import (
    Constitutional,
    ConstitutionalPrompts,
    CriticFlags,
    RevisionFlags,
)
from jaxtrain.apps.constitutional.phase import PhaseModels
from jaxtrain.apps.constitutional.principles import Constitution
from jaxtrain.config import Failure
from jaxtrain.data import conversations
from jaxtrain.data.conversations import SourceConversation, question
from jaxtrain.data.record_formats import Message
from jaxtrain.files import terminal
from jaxtrain.inference.llm import Request, seed_of
from jaxtrain.worlds.tinytown.answers import parse_answer
from jaxtrain.worlds.tinytown.prompts import parse_prompt

_HELPFUL = 20  # what a seed is for


@dataclasses.dataclass(frozen=True)
class RevisePhase:
    """What decides the rows."""

    asked: ConstitutionalPrompts = config.group(ConstitutionalPrompts)
    critic: CriticFlags = config.group(CriticFlags)
    revising: RevisionFlags = config.group(RevisionFlags)


def run(cfg: Constitutional, constitution: Constitution) -> Path:
    """Makes what is missing; returns the data set."""
    part = RevisePhase(cfg.asked, cfg.critic, cfg.revising)
    return phase.run_phase(
        cfg, constitution, "revise", part, "revisions.jsonl", functools.partial(_make, cfg, part)
    )


def _make(
    cfg: Constitutional, part: RevisePhase, models: PhaseModels, folder: Path, made_by: dict[str, str]
) -> None:
    asked, how = cfg.asked, cfg.revising
    given = conversations.read_conversations(asked.data, "data", cfg.machine.cache_dir, asked.prompt_count)
    source = how.helpful_of(asked.data)
    helpful = conversations.read_conversations(source, "helpful", cfg.machine.cache_dir, 0) if source else []
    recipe = revise.RevisionConfig(
        models.speaker, models.critic, asked.seed, how.rounds, how.critique, asked.temperature, asked.max_new,
        _in_language if how.grammar else lambda messages, text: True,
    )  # fmt: skip
    terminal.note(
        [
            ("models", f"{models.speaker.name} answers, {models.critic.model.name} revises"),
            ("prompts", f"{len(given):,} of {asked.data}, {len(helpful):,} of {source or 'nothing'}"),
        ]
    )

    def make(units: range) -> list[dict[str, Any]]:
        bad, good = (
            [u for u in units if u < len(given)],
            [u - len(given) for u in units if u >= len(given)],
        )
        found = []
        if bad:
            chains = revise.revise(recipe, [given[u].messages for u in bad], bad)
            found += [row for chain in chains for row in chain]
        return found + _answered(recipe, helpful, good, how.helpful_samples)

    rows = phase.journalled_rows(folder, part, made_by, len(given) + len(helpful), "revisions", make)
    rounds = [
        {"prompt": revise.prompt_of(given[row["unit"]].messages), "source": given[row["unit"]].name} | row
        for row in rows
        if "round" in row
    ]
    chains = collections.defaultdict(list)
    for row in rounds:
        chains[row["unit"]].append(row)
    learnt = [
        row
        for chain in chains.values()
        for row in revise.training_rows(lambda unit: given[unit].messages, chain, how.keep)
    ]
    answered = [row for row in rows if "round" not in row]
    learnt += [row for row in answered if "fault" not in row]
    if not learnt:
        raise Failure(f"no row is left to learn: {folder / 'part.jsonl'} says why, row by row, under 'fault'")
    counts = {
        "prompts": len(given),
        "rows": len(learnt),
        "faults": dict(collections.Counter(row["fault"] for row in rows if "fault" in row)),
    }
    files = {
        "rounds.jsonl": rounds,
        "helpful_left_out.jsonl": [row for row in answered if "fault" in row],
        "revisions.jsonl": learnt,
    }
    phase.finish(folder, part, made_by, files, **counts)
    said = ", ".join(f"{n:,} {name}" for name, n in sorted(counts["faults"].items())) or "nothing"
    terminal.note([("rows", f"{len(learnt):,} in {folder / 'revisions.jsonl'}"), ("left out", said)])


def _in_language(messages: tuple[Message, ...], text: str) -> bool:
    """Whether the world's grammar has this answer, right or wrong, to a prompt of the world; others are not asked."""
    known = parse_prompt(question(messages))
    return known is None or parse_answer(known, text) is not None


def _answered(
    how: revise.RevisionConfig, helpful: list[SourceConversation], places: list[int], samples: int
) -> list[dict[str, Any]]:
    """The speaker's own answers to harmless prompts."""
    asks = [
        Request(helpful[i].messages, samples, seed_of(how.seed, i, _HELPFUL), how.temperature, how.max_new)
        for i in places
    ]
    rows = []
    for i, replies in zip(places, how.speaker.generate(asks) if asks else [], strict=True):
        for g, reply in enumerate(replies):
            row = {
                "prompt": revise.prompt_of(helpful[i].messages),
                "completion": reply.text.strip(),
                "kind": "helpful",
            }
            row |= {
                "model": how.speaker.name,
                "seed": how.seed,
                "unit": i,
                "sample": g,
                "source": helpful[i].name,
            }
            fault = revise.fault_of(reply)
            rows.append(row | ({"fault": f"helpful answer {fault}"} if fault else {}))
    return rows
