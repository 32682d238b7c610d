"""result.json and report.html of the whole lifecycle: each stage's targets, what it reached, and its time."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtrain import config, worlds
from jaxtrain.apps.lifecycle import html, plan, tables
from jaxtrain.apps.lifecycle.plan import LifecycleStep, Target
from jaxtrain.files import atomic
from jaxtrain.train import metrics

SHOWN = 8  # prompts whose completions are shown
# The curves of a stage: (metric, title).
CURVES = {
    "pretrain": (("loss", "training loss, nats a token"),),
    "sft": (("loss", "training loss, nats a token"),),
    "reward": (("rewards/accuracies", "pairs ordered as the annotators do"),),
    "ppo": (
        ("objective/scores", "score of the reward model"),
        ("objective/kl", "KL from the reference, nats"),
    ),
    "dpo": (("rewards/margins", "margin of the implicit reward"),),
    "revise": (("harmful", "harmful answers, by rounds of revision"),),
    "constitutional": (("loss", "training loss, nats a token"),),
    "distill": (("divergence", "divergence from the teacher, nats a token"),),
}


def result(
    steps: Sequence[LifecycleStep], folder: Path, times: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The content of the report, as plain JSON."""
    runs = {step.name: plan.rows(folder / step.name) for step in steps}
    for step in steps:
        if torn := metrics.read_rows(folder / step.name / metrics.FILE)[1]:
            file = folder / step.name / metrics.FILE
            print(
                f"{file}: {metrics.line_numbers(torn)} cannot be read; the report is without them",
                file=sys.stderr,
            )
    completions = {
        step.name: atomic.read_jsonl(plan.answers_of(folder, step.name)) for step in steps if step.answers
    }
    values = {
        step.name: plan.latest(runs[step.name]) | _measures(completions.get(step.name, ())) for step in steps
    }
    stages = []
    for step in steps:
        before = next((values[name] for name in step.needs if name in completions), {})
        claims = [_claim_result(claim, before, values[step.name]) for claim in step.claims]
        stages.append({
            "name": step.name, "stage": step.stage, "title": step.title, "needs": list(step.needs),
            "seconds": times[step.name]["seconds"],
            "command": f"./launch/run {shlex.join(times[step.name]['commands'][0])}",
            "claims": claims, "reached": all(claim["reached"] for claim in claims),
            "measures": {name: v for name, v in values[step.name].items() if name in ("gold", *worlds.get().measures)},
            "curves": _curves(step, runs[step.name]),
        })  # fmt: skip
    return {
        "stages": stages,
        "seconds": plan.busy_seconds(times),
        "answers": _side_by_side(completions),
        "tables": tables.tables(steps, values, completions, runs, times),
    }


def _curves(step: LifecycleStep, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"title": title, "points": [[row["step"], row[name]] for row in rows if name in row]}
        for name, title in CURVES.get(step.name, ())
    ]  # fmt: skip


def _measures(answers: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    if not answers:
        return {}
    prompts, texts = [one["prompt"] for one in answers], [one["completion"] for one in answers]
    world = worlds.get()
    return world.measure(prompts, texts) | {"alike": world.consistency(prompts, texts, plan.SAMPLES)}


def _claim_result(claim: Target, before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, Any]:
    """A target with its numbers; it is not reached where there is no number."""
    was, now = before.get(claim.measure), after.get(claim.measure)
    value = now
    if claim.gain:
        value = None if None in (was, now) else now - was
    reached = (
        value is not None
        and (claim.low is None or value >= claim.low)
        and (claim.high is None or value <= claim.high)
    )
    wanted = f"at least {claim.low:g}" if claim.low is not None else f"at most {claim.high:g}"
    wanted = f"gain {wanted}" if claim.gain else wanted
    return {"measure": claim.measure, "before": was, "after": now, "wanted": wanted, "reached": reached}  # fmt: skip


def _side_by_side(completions: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The completions of every stage to some prompts, spread over the list."""
    prompts = list(dict.fromkeys(one["prompt"] for one in next(iter(completions.values()))))
    first = {
        name: {one["prompt"]: one["completion"] for one in reversed(answers)}
        for name, answers in completions.items()
    }
    chosen = prompts[:: max(1, len(prompts) // SHOWN)][:SHOWN]
    return [{"prompt": one, "answers": {name: texts[one] for name, texts in first.items()}} for one in chosen]


def write(result: Mapping[str, Any], folder: Path) -> None:
    """Writes result.json and report.html."""
    atomic.write_text(folder / "result.json", config.dumps(dict(result)) + "\n")
    atomic.write_text(folder / "report.html", html.page(result))


def print_result(result: Mapping[str, Any], folder: Path) -> None:
    """Prints one row a target, the missed ones in red, and the report's path."""
    from rich.console import Console
    from rich.table import Table

    table = Table("stage", "measure", "before", "after", "wanted", "s", box=None, header_style="dim")
    for stage in result["stages"]:
        for i, claim in enumerate(stage["claims"]):
            style = "" if claim["reached"] else "red"
            first = (stage["title"], f"{stage['seconds']:.0f}") if not i else ("", "")
            numbers = ("–" if claim[side] is None else f"{claim[side]:.3f}" for side in ("before", "after"))
            cells = (html.short(claim["measure"]), *numbers, claim["wanted"])
            table.add_row(first[0], *cells, first[1], style=style)
    console = Console()
    console.print(table)
    missed = sum(not claim["reached"] for stage in result["stages"] for claim in stage["claims"])
    console.print(
        f"\n{result['seconds'] / 60:.1f} min; {missed or 'no'} targets missed; the report: {folder / 'report.html'}",
        soft_wrap=True,
    )
