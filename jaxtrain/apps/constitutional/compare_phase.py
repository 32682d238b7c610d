"""The compare phase of ./launch/run constitutional: pairs of completions, and their AI preference labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtrain import config, worlds
from jaxtrain.apps.constitutional import compare, phase, revise
from jaxtrain.apps.constitutional.config import ComparePhase, Constitutional
from jaxtrain.apps.constitutional.phase import PhaseRun
from jaxtrain.apps.constitutional.principles import Constitution
from jaxtrain.config import ConfigError, Failure
from jaxtrain.data.preferences_db import prompt_field
from jaxtrain.data.prompts import Prompt, read_conversations
from jaxtrain.files import terminal
from jaxtrain.inference.llm import Request, derive_seed

# Pairs after which a critic that names one letter stops the run, midway and at the end.
BIAS_CHECK, BIAS_CHECK_AT_END = 64, 8
_SAMPLES = 30  # what a seed is for


def run(cfg: Constitutional, constitution: Constitution) -> Path:
    """The path of the data set, written where it is missing."""
    settings = ComparePhase(cfg.asked, cfg.critic, cfg.comparing, cfg.reading)
    return phase.run_phase(cfg, constitution, "compare", settings, "labels.jsonl", _generate)


def _generate(cfg: Constitutional, run: PhaseRun) -> None:
    task, options = cfg.asked, cfg.comparing
    dialogs = config.dialogs_of(cfg.reading, cfg.machine.cache_dir)
    prompts = read_conversations(task.data, "data", dialogs, task.prompt_count)
    terminal.note([
        ("models", f"{run.policy.name} answers, {run.critic.model.name} compares"),
        ("pairs", f"{options.pairs} of each of {len(prompts):,} prompts of {task.data}"),
    ])  # fmt: skip

    def check(rows: list[dict[str, Any]], done: bool) -> None:
        orders = [row["p_orders"] for row in rows if "fault" not in row]
        if not options.allow_position_bias and len(orders) >= (BIAS_CHECK_AT_END if done else BIAS_CHECK):
            _check_position_bias(run.critic.model.name, orders)

    rows = phase.journalled_rows(
        run, len(prompts), "comparisons", lambda units: _compare(cfg, run, prompts, units), check
    )
    labels, left_out = [[row for row in rows if ("fault" in row) == faulty] for faulty in (False, True)]
    if not labels:
        raise Failure(
            f"no comparison is left: {run.folder / phase.JOURNAL} has the reason of each under 'fault'"
        )
    faults = phase.fault_counts(left_out)
    bias = compare.position_bias([row["p_orders"] for row in labels])
    files = {"left_out.jsonl": left_out, "labels.jsonl": labels}
    phase.finish(run, files, pairs=len(rows), rows=len(labels), faults=faults, bias=bias)
    terminal.note([
        ("rows", f"{len(labels):,} in {run.folder / 'labels.jsonl'}"),
        ("left out", phase.fault_text(faults)),
        ("order", ", ".join(f"{name} {value:.3f}" for name, value in bias.items())),
    ])  # fmt: skip


def _check_position_bias(critic: str, orders: Sequence[Sequence[float]]) -> None:
    """Raises ConfigError where nearly all verdicts name one letter, whichever answer it stands for, and as surely."""
    if not compare.place_decides(orders):
        return
    of_a = compare.position_bias(orders)["letter_a"]
    letter, share = ("A", of_a) if of_a > 0.5 else ("B", 1 - of_a)
    raise ConfigError(
        f"--critic={critic}: position bias: it names ({letter}) in {share:.0%} of {2 * len(orders):,} verdicts, "
        "whatever stands there, so its labels are meaningless: name another critic, or continue with "
        "--allow_position_bias"
    )


def _compare(
    cfg: Constitutional, run: PhaseRun, prompts: Sequence[Prompt], units: range
) -> list[dict[str, Any]]:
    """The rows of some prompts: labelled pairs of completions, and those with a fault, which are left out."""
    task, options = cfg.asked, cfg.comparing
    requests = [
        Request(
            prompts[u].messages, 2 * options.pairs, derive_seed(task.seed, u, _SAMPLES), task.temperature,
            task.max_new,
        )
        for u in units
    ]  # fmt: skip
    rows, pairs = [], []
    for u, replies in zip(units, run.policy.generate(requests), strict=True):
        for k in range(options.pairs):
            two = replies[2 * k : 2 * k + 2]
            texts, faults = [one.text.strip() for one in two], [revise.fault_of(one) for one in two]
            pair = compare.AnswerPair(prompts[u].messages, *texts, u * options.pairs + k)
            fault = next((f"answer {one}" for one in faults if one), "")
            fault = fault or ("answers equal" if texts[0] == texts[1] else "")
            if fault:
                rows.append(_left_out(pair, fault))
            else:
                pairs.append((u, pair))
    comparison = compare.ComparisonConfig(run.critic, task.seed, options.cot, options.cot_clamp)
    labels = compare.labels(comparison, [pair for _, pair in pairs])
    provenance = {"kind": "ai", "model": run.policy.name, "critic": run.critic.model.name, "seed": task.seed}
    for (u, pair), label in zip(pairs, labels, strict=True):
        if label.fault:
            rows.append(_left_out(pair, label.fault, principle=label.principle))
            continue
        prompt = prompt_field(list(pair.messages))
        row = compare.training_row(pair, label, prompt, source=prompts[u].name, **provenance)
        rows.append(row | _gold_rewards(row))
    return rows


def _left_out(pair: compare.AnswerPair, fault: str, **more: Any) -> dict[str, Any]:
    texts = {"prompt": prompt_field(list(pair.messages)), "first": pair.first, "second": pair.second}
    return {**texts, "pair": pair.number, "fault": fault, **more}


def _gold_rewards(row: dict[str, Any]) -> dict[str, Any]:
    """The gold rewards of a pair, to measure labels by; nothing where no world knows the prompt."""
    prompt = row["prompt"]
    world = worlds.world_of_prompt(prompt) if isinstance(prompt, str) else None
    if world is None:
        return {}
    rewards = {f"reward_{side}": world.gold(prompt, row[side]) for side in ("chosen", "rejected")}
    return rewards | {"family": world.parse(prompt).family}
