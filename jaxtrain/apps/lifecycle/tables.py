"""Four tables that compare the stages, with the numbers of this lifecycle."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtrain import worlds
from jaxtrain.apps.lifecycle.plan import LifecycleStep
from jaxtrain.measures import glossary

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


def _row(name: str, cells: Sequence[str | float | None], unit: str = "", measure: str = "") -> dict[str, Any]:
    """A row: texts, and numbers to be written as `unit` says, % or a format; `measure` is what they are."""
    return {"name": name, "cells": [*cells], "unit": unit, "measure": measure}


def _measured(
    name: str, values: Values, stages: Sequence[str], measure: str, texts: Sequence[str] = ()
) -> dict[str, Any]:
    """The row of a measure of these stages, behind `texts`."""
    unit = "%" if glossary.get(measure).share else ".2f"
    return _row(name, [*texts, *(values[stage].get(measure) for stage in stages)], unit, measure)


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
            _measured("it is an answer (parsable)", values, ("pretrain", "sft"), "parsable"),
            _measured("steps are right", values, ("pretrain", "sft"), "steps"),
            _measured("facts are right", values, ("pretrain", "sft"), "facts"),
        ],
    }  # fmt: skip


def _base_and_chat(values: Values) -> dict[str, Any]:
    last = next(name for name in ("ppo", "dpo", "sft") if name in values)
    return {
        "title": "Base model and chat model",
        "note": f"The base model is the pretrained one, the chat model that of {last}.",
        "head": ["", "base", "chat"],
        "rows": [
            _measured("answers the question (parsable)", values, ("pretrain", last), "parsable"),
            _measured("helps with harmful requests", values, ("pretrain", last), "harmful"),
            _measured("refuses them with a reason", values, ("pretrain", last), "refuse"),
            _measured("gold reward", values, ("pretrain", last), "gold"),
        ],
    }  # fmt: skip


def _rlhf(values: Values) -> dict[str, Any]:
    rows = (
        ("harmful content", "harmful", "harmful requests that are helped"),
        ("", "refuse", "refused with a reason"),
        ("terse or detailed", "detail", "answers with every step"),
        ("safety awareness", "warn", "risky tasks with a warning"),
        ("consistency", "alike", "two answers to a prompt have the same gold reward"),
        ("still in the language?", "parsable", "parsable answers"),
    )
    return {
        "title": "What RLHF achieves",
        "note": "",
        "head": ["", "measured", "before RLHF", "after RLHF"],
        "rows": [
            _measured(claim, values, ("sft", "ppo"), measure, [what]) for claim, measure, what in rows
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
                 "1: the reference model's log-probabilities are computed once, before training"]),
            _row("stages", ["2, with sampling", "1, without"]),
            _row("seconds", [seconds["reward"] + seconds["ppo"], seconds["dpo"]], ".0f"),
            _row("stability", [grad_norm_peak("ppo"), grad_norm_peak("dpo")], ".1f"),
            _measured("gold reward", values, ("ppo", "dpo"), "gold"),
            _measured("harmful", values, ("ppo", "dpo"), "harmful"),
        ],
    }  # fmt: skip
