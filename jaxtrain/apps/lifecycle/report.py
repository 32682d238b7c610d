"""result.json and report.html of the whole lifecycle: each stage's targets, what it reached, and its time."""

import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxtrain import config, worlds
from jaxtrain.apps.lifecycle import html, plan, tables, watch
from jaxtrain.apps.lifecycle.plan import LifecycleStep, Target
from jaxtrain.files import atomic
from jaxtrain.measures import glossary
from jaxtrain.train import metrics

ROUNDING = 1e-9
WIDE = 150  # columns where the output is no terminal
SHOWN = 8  # prompts whose completions are shown


class Curve(NamedTuple):
    """A curve of a stage."""

    metric: str
    title: str
    unit: str
    held_out: str = ""  # the metric of held-out data that belongs beside it


_LOSS = Curve("loss", "Loss", "nats a token", "eval/loss")
CURVES = {
    "pretrain": (_LOSS,),
    "sft": (_LOSS,),
    "reward": (
        Curve("rewards/accuracies", "Pairs ordered as the annotators do", "% of the pairs", "eval/accuracy"),
    ),
    "ppo": (
        Curve("objective/scores", "Score of the reward model", "score"),
        Curve("objective/kl", "KL from the reference", "nats an answer"),
    ),
    "dpo": (Curve("rewards/margins", "Margin of the implicit reward", "margin", "eval/rewards/margins"),),
    "revise": (Curve("harmful", "Harmful answers, by rounds of revision", "% of the answers"),),
    "constitutional": (_LOSS,),
    "distill": (Curve("divergence", "Divergence from the teacher", "nats a token", "eval/divergence"),),
}


CLOSED_MEASURES = ("facts", "spelling")


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
    completions, closed = (
        {
            step.name: atomic.read_jsonl(plan.answers_of(folder, step.name, name))
            for step in steps
            if step.answers
        }
        for name in (plan.ALL, plan.CLOSED)
    )
    taken = {step.name: plan.taken(step, folder) for step in steps}
    values = {
        step.name: plan.latest(runs[step.name], taken[step.name])
        | _measures(completions.get(step.name, ()), closed.get(step.name, ()))
        for step in steps
    }
    stages = []
    for step in steps:
        parent = next((values[name] for name in step.needs if name in completions), {})
        claims = [
            claim_result(claim, values.get(claim.over, {}) if claim.over else parent, values[step.name])
            for claim in step.claims
        ]
        reached = all(claim["reached"] for claim in claims)
        short = [stage["name"] for stage in stages if not stage["reached"]]
        stages.append({
            "name": step.name, "stage": step.stage, "title": step.title, "needs": list(step.needs),
            "seconds": times[step.name]["seconds"],
            "command": f"./launch/run {shlex.join(times[step.name]['commands'][0])}",
            "claims": claims, "reached": reached, "taken": taken[step.name],
            "measures": {name: v for name, v in values[step.name].items() if name in ("gold", *worlds.get().measures)},
            "curves": _curves(step, runs[step.name]),
            "figures": watch.figures(step, runs[step.name], folder, taken[step.name]),
            "notes": [] if reached else watch.notes(step, runs[step.name], folder, short),
        })  # fmt: skip
    return {
        "stages": stages,
        "seconds": plan.busy_seconds(times),
        "counts": _counts(completions, closed) | _pairs(values),
        "answers": _side_by_side(completions),
        "tables": tables.tables(steps, values, completions, runs, times),
    }


def _curves(step: LifecycleStep, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    def points(name: str) -> list[list[float]]:
        return [[row["step"], row[name]] for row in rows if name in row]

    x = "round of revision" if step.name == "revise" else "step"
    return [
        {"title": one.title, "unit": one.unit, "x": x, "points": points(one.metric), "held_out": points(one.held_out)}
        for one in CURVES.get(step.name, ())
    ]  # fmt: skip


def _measures(answers: Sequence[Mapping[str, Any]], closed: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The judge's measures of the completions; `closed` are those of facts and spelling, which need more."""
    if not answers:
        return {}
    world = worlds.get()
    texts = [[[one[key] for one in part] for key in ("prompt", "completion")] for part in (answers, closed)]
    several, recall = (world.measure(*part) for part in texts)
    recall = {name: recall[name] for name in CLOSED_MEASURES if name in recall}
    return several | recall | {"alike": world.consistency(*texts[0], plan.ANSWER_SETS[plan.ALL].samples)}


def _counts(*completions: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, int]:
    """How many completions of a stage each measure is about; those of all stages are to the same prompts."""
    several, closed = ([one["prompt"] for one in next(iter(part.values()), ())] for part in completions)
    counts = worlds.get().counts(closed) if closed else {}
    counts = {name: count for name, count in counts.items() if name in CLOSED_MEASURES}
    alike = {"alike": len(several) // plan.ANSWER_SETS[plan.ALL].samples}
    return (worlds.get().counts(several) | alike if several else {}) | counts


def _pairs(values: Mapping[str, Mapping[str, float]]) -> dict[str, int]:
    """How many held-out pairs the reward model's agreement with gold is of."""
    counts = {int(of["eval/gold_decided"]) for of in values.values() if "eval/gold_decided" in of}
    return {"eval/gold_accuracy": counts.pop()} if len(counts) == 1 else {}


def claim_result(claim: Target, before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, Any]:
    """A target with its numbers, and by how much it is reached; not where there is no number.

    Numbers are compared up to ROUNDING: .95 - 1 is no loss of more than .05.
    """
    was, now = (_finite(side.get(claim.measure)) for side in (before, after))
    value = now
    if claim.gain:
        value = None if None in (was, now) else now - was
    margin = None
    if value is not None:
        low, high = (
            (-math.inf if claim.low is None else claim.low),
            (math.inf if claim.high is None else claim.high),
        )
        margin = min(value - low, high - value)
    return {
        "measure": claim.measure, "before": was, "after": now, "value": value, "wanted": wanted(claim),
        "margin": margin, "reached": margin is not None and margin >= -ROUNDING,
    }  # fmt: skip


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def wanted(claim: Target) -> str:
    """A target as the report writes it; a share in percent, a difference of shares in points of it."""
    share = glossary.get(claim.measure).share

    def text(value: float) -> str:
        return f"{100 * value:g} {'points' if claim.gain else '%'}" if share else f"{value:g}"

    bound = f"at least {text(claim.low)}" if claim.low is not None else f"at most {text(claim.high)}"
    if not claim.gain:
        return bound
    if claim.low is not None and claim.low < 0:
        return f"at most {text(-claim.low)} below {claim.over or 'before'}"
    return f"gain {bound}" + f" over {claim.over}" * bool(claim.over)


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
    """Prints one row a target, the missed ones in red, what the numbers of a missed stage suggest, and the path."""
    from rich.console import Console
    from rich.table import Column, Table

    several = "seeds" in result
    title = "name" if several else "title"  # there is less room
    bands = ("least", "most", "n", "wanted", "worst seed") if several else ("95 % interval", "wanted")
    head = ("stage", "measure", "before", "after", *bands, "s")
    counts = result.get("counts", {})
    table = Table(*(Column(one, overflow="fold") for one in head), box=None, header_style="dim")
    for stage in result["stages"]:
        for i, claim in enumerate(stage["claims"]):
            first = (stage[title], html.number(stage["seconds"], ".0f")) if not i else ("", "")
            numbers = [claim["before"], claim["after"]]
            numbers += [(claim["after"] or {}).get(end) for end in bands[:2]] if several else []
            worst = (html.worst(claim),) if several else ()
            texts = [html.number(value, html.unit(claim["measure"])) for value in numbers]
            texts.append(html.certainty(claim["after"], claim["measure"], counts))
            cells = (glossary.get(claim["measure"]).title, *texts, claim["wanted"], *worst)
            table.add_row(first[0], *cells, first[1], style="" if claim["reached"] else "red")
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(console.width, WIDE))
    console.print(table)
    for stage in result["stages"]:
        if stage["taken"] is not None:
            step = html.spread(stage["taken"], ".0f")
            console.print(f"{stage['title']}: the best checkpoint is taken, of step {step}", soft_wrap=True)
        for note in stage["notes"]:
            console.print(f"{stage['title']}: {note}", soft_wrap=True, markup=False)
    missed = sum(not claim["reached"] for stage in result["stages"] for claim in stage["claims"])
    seeds = f" of {len(result['seeds'])} seeds" if several else ""
    console.print(
        f"\n{result['seconds'] / 60:.1f} min{seeds}; {missed or 'no'} target{'s' * (missed != 1)} missed; the report: "
        f"{folder / 'report.html'}",
        soft_wrap=True,
    )
