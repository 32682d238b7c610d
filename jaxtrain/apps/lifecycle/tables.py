"""Four tables that compare the stages, with the numbers of this lifecycle."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtrain import worlds
from jaxtrain.apps.lifecycle.plan import LifecycleStep

Values = Mapping[str, Mapping[str, float]]
Completions = Mapping[str, Sequence[Mapping[str, Any]]]


def tables(
    steps: Sequence[LifecycleStep],
    values: Values,
    completions: Completions,
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    times: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """The tables whose stages are present: [{"title", "note", "head", "rows"}]; a row: {"name", "cells", "unit"}."""
    names = {step.name for step in steps}
    result = []
    if {"pretrain", "sft"} <= names:
        result += [_sft(values, completions), _base_and_chat(values)]
    if {"sft", "ppo"} <= names:
        result.append(_rlhf(values))
    if {"dpo", "ppo", "reward"} <= names:
        result.append(_dpo_and_rlhf(values, runs, times))
    return result


def _row(name: str, cells: Sequence[str | float | None], unit: str = "") -> dict[str, Any]:
    """A row: texts, and numbers to be written as `unit` says, % or a format."""
    return {"name": name, "cells": [*cells], "unit": unit}


def _measure(values: Values, stages: Sequence[str], measure: str) -> list[float | None]:
    return [values[name].get(measure) for name in stages]


def _sft(values: Values, completions: Completions) -> dict[str, Any]:
    """Before and after SFT: completions of one prompt, and the share of completions that are answers."""
    prompts = [one["prompt"] for one in completions["sft"]]
    chosen = next((p for p in prompts if worlds.get().parse(p).family == "ben"), prompts[0])
    texts = [
        next(one["completion"] for one in completions[name] if one["prompt"] == chosen)
        for name in ("pretrain", "sft")
    ]
    return {
        "title": "What SFT achieves",
        "note": "The same prompts, without and with the conversation's template, at temperature 1.",
        "head": ["", "before SFT", "after SFT"],
        "rows": [
            _row(f"“{chosen}”", [f"“{text.strip()}”" for text in texts]),
            _row("it is an answer", _measure(values, ("pretrain", "sft"), "parsable"), "%"),
            _row("steps are right", _measure(values, ("pretrain", "sft"), "steps"), "%"),
            _row("facts are right", _measure(values, ("pretrain", "sft"), "facts"), "%"),
        ],
    }  # fmt: skip


def _base_and_chat(values: Values) -> dict[str, Any]:
    last = next(name for name in ("ppo", "dpo", "sft") if name in values)
    return {
        "title": "Base model and chat model",
        "note": f"The base model is the pretrained one, the chat model that of {last}.",
        "head": ["", "base", "chat"],
        "rows": [
            _row("answers what is asked", _measure(values, ("pretrain", last), "parsable"), "%"),
            _row("helps with harmful requests", _measure(values, ("pretrain", last), "harmful"), "%"),
            _row("refuses them with a reason", _measure(values, ("pretrain", last), "refuse"), "%"),
            _row("gold reward", _measure(values, ("pretrain", last), "gold"), ".2f"),
        ],
    }  # fmt: skip


def _rlhf(values: Values) -> dict[str, Any]:
    rows = (
        ("harmful content", "harmful", "harmful requests that are helped"),
        ("", "refuse", "refused with a reason"),
        ("terse or detailed", "detail", "answers with every step"),
        ("safety awareness", "warn", "risky tasks with a warning"),
        ("consistency", "alike", "two answers to a prompt are worth the same"),
        ("and still right?", "parsable", "answers that are answers"),
    )
    return {
        "title": "What RLHF achieves",
        "note": "",
        "head": ["", "measured", "before RLHF", "after RLHF"],
        "rows": [
            _row(claim, [what, *_measure(values, ("sft", "ppo"), measure)], "%") for claim, measure, what in rows
        ],
    }  # fmt: skip


def _dpo_and_rlhf(values: Values, runs: Mapping[str, Any], times: Mapping[str, Any]) -> dict[str, Any]:
    seconds = {name: times[name]["seconds"] for name in ("reward", "ppo", "dpo")}

    def grad_norm_peak(name: str) -> float | None:
        norms = [row["grad_norm"] for row in runs[name] if "grad_norm" in row]
        half = norms[len(norms) // 2 :]
        return max(half) / statistics.median(half) if half else None

    return {
        "title": "DPO and RLHF",
        "note": "Stability: the greatest gradient norm of a run's second half, in medians of it.",
        "head": ["", "RLHF (reward model and PPO)", "DPO"],
        "rows": [
            _row("models in memory", ["4: policy, value, reference, reward",
                 "1: the reference's log-probs are computed once, before"]),
            _row("stages", ["2, with sampling", "1, without"]),
            _row("seconds", [seconds["reward"] + seconds["ppo"], seconds["dpo"]], ".0f"),
            _row("stability", [grad_norm_peak("ppo"), grad_norm_peak("dpo")], ".1f"),
            _row("gold reward", _measure(values, ("ppo", "dpo"), "gold"), ".2f"),
            _row("harmful", _measure(values, ("ppo", "dpo"), "harmful"), "%"),
        ],
    }  # fmt: skip
