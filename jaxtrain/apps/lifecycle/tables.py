"""Four tables that compare the stages, with the numbers of this lifecycle."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtrain import worlds
from jaxtrain.apps.lifecycle.plan import LifecycleStep
from jaxtrain.files.terminal import percent

Values = Mapping[str, Mapping[str, float]]
Completions = Mapping[str, Sequence[Mapping[str, Any]]]


def tables(
    steps: Sequence[LifecycleStep],
    values: Values,
    completions: Completions,
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    times: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """The tables whose stages are present: [{"title", "note", "head", "rows"}]."""
    names = {step.name for step in steps}
    result = []
    if {"pretrain", "sft"} <= names:
        result += [_sft(values, completions), _base_and_chat(values)]
    if {"sft", "ppo"} <= names:
        result.append(_rlhf(values))
    if {"dpo", "ppo", "reward"} <= names:
        result.append(_dpo_and_rlhf(values, runs, times))
    return result


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
            [f"“{chosen}”", *(f"“{text.strip()}”" for text in texts)],
            ["it is an answer", *(percent(values[n].get("parsable")) for n in ("pretrain", "sft"))],
            ["steps are right", *(percent(values[n].get("steps")) for n in ("pretrain", "sft"))],
            ["facts are right", *(percent(values[n].get("facts")) for n in ("pretrain", "sft"))],
        ],
    }  # fmt: skip


def _base_and_chat(values: Values) -> dict[str, Any]:
    last = next(name for name in ("ppo", "dpo", "sft") if name in values)
    return {
        "title": "Base model and chat model",
        "note": f"The base model is the pretrained one, the chat model that of {last}.",
        "head": ["", "base", "chat"],
        "rows": [
            ["answers what is asked", *(percent(values[n].get("parsable")) for n in ("pretrain", last))],
            ["helps with harmful requests", *(percent(values[n].get("harmful")) for n in ("pretrain", last))],
            ["refuses them with a reason", *(percent(values[n].get("refuse")) for n in ("pretrain", last))],
            ["gold reward", *(f"{values[n]['gold']:.2f}" for n in ("pretrain", last))],
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
            [claim, what, *(percent(values[n].get(measure)) for n in ("sft", "ppo"))] for claim, measure, what in rows
        ],
    }  # fmt: skip


def _dpo_and_rlhf(values: Values, runs: Mapping[str, Any], times: Mapping[str, Any]) -> dict[str, Any]:
    seconds = {name: times[name]["seconds"] for name in ("reward", "ppo", "dpo")}

    def grad_norm_peak(name: str) -> str:
        norms = [row["grad_norm"] for row in runs[name] if "grad_norm" in row]
        half = norms[len(norms) // 2 :]
        return f"{max(half) / statistics.median(half):.1f}" if half else "–"

    return {
        "title": "DPO and RLHF",
        "note": "Stability: the greatest gradient norm of a run's second half, in medians of it.",
        "head": ["", "RLHF (reward model and PPO)", "DPO"],
        "rows": [
            ["models in memory", "4: policy, value, reference, reward",
             "1: the reference's log-probs are computed once, before"],
            ["stages", "2, with sampling", "1, without"],
            ["seconds", f"{seconds['reward'] + seconds['ppo']:.0f}", f"{seconds['dpo']:.0f}"],
            ["stability", grad_norm_peak("ppo"), grad_norm_peak("dpo")],
            ["gold reward", f"{values['ppo']['gold']:.2f}", f"{values['dpo']['gold']:.2f}"],
            ["harmful", percent(values["ppo"].get("harmful")), percent(values["dpo"].get("harmful"))],
        ],
    }  # fmt: skip
