"""The second phase of ./launch/run constitutional: pairs of answers, and the labels that an AI gives them."""

import collections
import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtrain import config
from jaxtrain.apps.constitutional import compare, phase, revise
from jaxtrain.apps.constitutional.config import (
    ComparisonFlags,
    Constitutional,
    ConstitutionalPrompts,
    CriticFlags,
)
from jaxtrain.apps.constitutional.phase import PhaseModels
from jaxtrain.apps.constitutional.principles import Constitution
from jaxtrain.config import ConfigError, Failure
from jaxtrain.data import conversations
from jaxtrain.data.conversations import SourceConversation
from jaxtrain.files import terminal
from jaxtrain.inference.llm import Request, seed_of
from jaxtrain.worlds.tinytown import measures
from jaxtrain.worlds.tinytown.prompts import parse_prompt

SEEN, FEWEST = 64, 8  # pairs after which a critic that names one letter is stopped, midway and at the end
_SAMPLES = 30  # what a seed is for


@dataclasses.dataclass(frozen=True)
class ComparePhase:
    """What decides the rows."""

    asked: ConstitutionalPrompts = config.group(ConstitutionalPrompts)
    critic: CriticFlags = config.group(CriticFlags)
    comparing: ComparisonFlags = config.group(ComparisonFlags)


def run(cfg: Constitutional, constitution: Constitution) -> Path:
    """Makes what is missing; returns the data set."""
    part = ComparePhase(cfg.asked, cfg.critic, cfg.comparing)
    return phase.run_phase(
        cfg, constitution, "compare", part, "labels.jsonl", functools.partial(_make, cfg, part)
    )


def _make(
    cfg: Constitutional, part: ComparePhase, models: PhaseModels, folder: Path, made_by: dict[str, str]
) -> None:
    asked, how = cfg.asked, cfg.comparing
    given = conversations.read_conversations(asked.data, "data", cfg.machine.cache_dir, asked.prompt_count)
    terminal.note(
        [
            ("models", f"{models.speaker.name} answers, {models.critic.model.name} compares"),
            ("pairs", f"{how.pairs} of each of {len(given):,} prompts of {asked.data}"),
        ]
    )

    def make(units: range) -> list[dict[str, Any]]:
        return _compared(cfg, models, given, units)

    def check(rows: list[dict[str, Any]], done: bool) -> None:
        seen = [row["p_orders"] for row in rows if "fault" not in row]
        told = compare.position_bias(seen)
        if (
            len(seen) >= (FEWEST if done else SEEN)
            and compare.always_same_letter(told)
            and not how.allow_position_bias
        ):
            named = "A" if told["letter_a"] > 0.5 else "B"
            share = max(told["letter_a"], 1 - told["letter_a"])
            raise ConfigError(
                f"--critic={models.critic.model.name}: position bias: it names ({named}) in {share:.0%} of "
                f"{2 * len(seen):,} verdicts, whatever stands there, so its labels say nothing: name another critic, "
                "or go on with --allow_position_bias"
            )

    rows = phase.journalled_rows(folder, part, made_by, len(given), "comparisons", make, check)
    labels, out = [[row for row in rows if ("fault" in row) == bad] for bad in (False, True)]
    if not labels:
        raise Failure(f"no comparison is left: {folder / 'part.jsonl'} says why, row by row, under 'fault'")
    faults = dict(collections.Counter(row["fault"] for row in out))
    bias = compare.position_bias([row["p_orders"] for row in labels])
    counts = {"pairs": len(rows), "rows": len(labels), "faults": faults, "bias": bias}
    phase.finish(folder, part, made_by, {"left_out.jsonl": out, "labels.jsonl": labels}, **counts)
    said = ", ".join(f"{n:,} {name}" for name, n in sorted(faults.items())) or "nothing"
    order = ", ".join(f"{name} {value:.3f}" for name, value in bias.items())
    table = [("rows", f"{len(labels):,} in {folder / 'labels.jsonl'}"), ("left out", said), ("order", order)]
    terminal.note(table)


def _compared(
    cfg: Constitutional, models: PhaseModels, given: Sequence[SourceConversation], units: range
) -> list[dict[str, Any]]:
    """The rows of some prompts: pairs of answers with a label, and those that are left out, with a fault."""
    asked, how = cfg.asked, cfg.comparing
    recipe = compare.ComparisonConfig(models.critic, asked.seed, how.cot, how.cot_clamp)
    asks = [
        Request(
            given[u].messages,
            2 * how.pairs,
            seed_of(asked.seed, u, _SAMPLES),
            asked.temperature,
            asked.max_new,
        )
        for u in units
    ]
    rows, pairs = [], []
    for u, replies in zip(units, models.speaker.generate(asks), strict=True):
        for k in range(how.pairs):
            two = replies[2 * k : 2 * k + 2]
            texts, faults = [one.text.strip() for one in two], [revise.fault_of(one) for one in two]
            pair = compare.AnswerPair(given[u].messages, *texts, u * how.pairs + k)
            fault = next((f"answer {one}" for one in faults if one), "")
            fault = fault or ("answers equal" if texts[0] == texts[1] else "")
            if fault:
                rows.append(_left_out(pair, fault))
            else:
                pairs.append((u, pair))
    found = compare.labels(recipe, [pair for _, pair in pairs])
    more = {
        "kind": "ai",
        "model": models.speaker.name,
        "critic": models.critic.model.name,
        "seed": asked.seed,
    }
    for (u, pair), label in zip(pairs, found, strict=True):
        if label.fault:
            rows.append(_left_out(pair, label.fault, principle=label.principle))
            continue
        row = compare.training_row(pair, label, revise.prompt_of(pair.messages), source=given[u].name, **more)
        rows.append(row | _truth(row))
    return rows


def _left_out(pair: compare.AnswerPair, fault: str, **more: Any) -> dict[str, Any]:
    told = {"prompt": revise.prompt_of(pair.messages), "first": pair.first, "second": pair.second}
    return {**told, "pair": pair.number, "fault": fault, **more}


def _truth(row: dict[str, Any]) -> dict[str, Any]:
    """What the world knows of a pair, to measure labels by; nothing where the prompt is not the world's."""
    prompt = row["prompt"]
    known = parse_prompt(prompt) if isinstance(prompt, str) else None
    if known is None:
        return {}
    rewards = {f"reward_{side}": measures.reward(prompt, row[side]) for side in ("chosen", "rejected")}
    return rewards | {"family": known.family}
