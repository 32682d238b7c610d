"""The four tables of how a language model is trained, with this training's numbers in them."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtrain import worlds
from jaxtrain.apps.lifecycle.plan import LifecycleStep
from jaxtrain.files.terminal import percent

Found = Mapping[str, Mapping[str, float]]
Said = Mapping[str, Sequence[Mapping[str, Any]]]


def tables(
    steps: Sequence[LifecycleStep],
    found: Found,
    said: Said,
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    times: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Those whose stages there are: [{"title", "note", "head", "rows"}]."""
    names = {step.name for step in steps}
    made = []
    if {"pretrain", "sft"} <= names:
        made += [_sft(found, said), _base_and_chat(found)]
    if {"sft", "ppo"} <= names:
        made.append(_rlhf(found))
    if {"dpo", "ppo", "reward"} <= names:
        made.append(_dpo_and_rlhf(found, runs, times))
    return made


def _sft(found: Found, said: Said) -> dict[str, Any]:
    """Before and after SFT: one prompt, and how often what is said is an answer."""
    prompts = [one["prompt"] for one in said["sft"]]
    chosen = next((p for p in prompts if worlds.get().parse(p).family == "ben"), prompts[0])
    texts = [
        next(one["completion"] for one in said[name] if one["prompt"] == chosen)
        for name in ("pretrain", "sft")
    ]
    return {
        "title": "What SFT achieves",
        "note": "The same prompts, without and with the conversation's template, at temperature 1.",
        "head": ["", "before SFT", "after SFT"],
        "rows": [
            [f"“{chosen}”", *(f"“{text.strip()}”" for text in texts)],
            ["it is an answer", *(percent(found[n].get("parsable")) for n in ("pretrain", "sft"))],
            ["steps are right", *(percent(found[n].get("steps")) for n in ("pretrain", "sft"))],
            ["facts are right", *(percent(found[n].get("facts")) for n in ("pretrain", "sft"))],
        ],
    }  # fmt: skip


def _base_and_chat(found: Found) -> dict[str, Any]:
    last = next(name for name in ("ppo", "dpo", "sft") if name in found)
    return {
        "title": "Base model and chat model",
        "note": f"The base model is the pretrained one, the chat model that of {last}.",
        "head": ["", "base", "chat"],
        "rows": [
            ["answers what is asked", *(percent(found[n].get("parsable")) for n in ("pretrain", last))],
            ["helps with harmful requests", *(percent(found[n].get("harmful")) for n in ("pretrain", last))],
            ["refuses them with a reason", *(percent(found[n].get("refuse")) for n in ("pretrain", last))],
            ["gold reward", *(f"{found[n]['gold']:.2f}" for n in ("pretrain", last))],
        ],
    }  # fmt: skip


def _rlhf(found: Found) -> dict[str, Any]:
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
            [claim, what, *(percent(found[n].get(measure)) for n in ("sft", "ppo"))] for claim, measure, what in rows
        ],
    }  # fmt: skip


def _dpo_and_rlhf(found: Found, runs: Mapping[str, Any], times: Mapping[str, Any]) -> dict[str, Any]:
    seconds = {name: times[name]["seconds"] for name in ("reward", "ppo", "dpo")}

    def restless(name: str) -> str:
        norms = [row["grad_norm"] for row in runs[name] if "grad_norm" in row]
        half = norms[len(norms) // 2 :]
        return f"{max(half) / statistics.median(half):.1f}" if half else "–"

    return {
        "title": "DPO and RLHF",
        "note": "Stability: the greatest gradient norm of a run's second half, in medians of it.",
        "head": ["", "RLHF (reward model and PPO)", "DPO"],
        "rows": [
            ["models in memory", "4: policy, value, reference, reward",
             "1: the reference speaks once, before"],
            ["stages", "2, with sampling", "1, without"],
            ["seconds", f"{seconds['reward'] + seconds['ppo']:.0f}", f"{seconds['dpo']:.0f}"],
            ["stability", restless("ppo"), restless("dpo")],
            ["gold reward", f"{found['ppo']['gold']:.2f}", f"{found['dpo']['gold']:.2f}"],
            ["harmful", percent(found["ppo"].get("harmful")), percent(found["dpo"].get("harmful"))],
        ],
    }  # fmt: skip
