"""Revisions after a critique against direct ones, at three sizes of the model."""

import dataclasses
from typing import Any

from experiments.papers import recipes
from jaxtrain import config, flags
from jaxtrain.apps.papers.config import PaperTrial
from jaxtrain.apps.papers.verdicts import Check, Paper, Result, by_seed, on_mean

PAPER = Paper(
    name="cai_critique_ablation",
    title="Revisions with and without a critique",
    source="Bai et al. 2022, arXiv:2212.08073",
    figure="Figure 7",
    claim="A critique before the revision makes small models' revisions less harmful, and hardly matters for "
    "large ones.",
    published="curves of the harmlessness score at three sizes, without a table",
    measured="Models of .2M, .6M and 1M parameters, each the policy (helpful-only) and, pretrained, the critic: "
    "P(harmful) after each of four revisions of answers to 120 held-out red-team prompts, critiqued and "
    "direct. Gap: direct less critiqued, the mean over rounds.",
    criterion="The gap of the smallest model is larger than that of the largest in two thirds of the seeds, and "
    "above 0 by the mean.",
)
MODELS = {".2M": f"--model={recipes.SMALL}", ".6M": "--model=tinytown-1m,layers=2", "1M": ""}
WAYS = {"critiqued": "--critique=true", "direct": "--critique=false"}


@dataclasses.dataclass(frozen=True)
class AblationFlags(config.Group):
    # fmt: off
    prompts: int = config.arg(120, "Red-team prompts; 120 are held out", low=8, high=120)
    # fmt: on


@dataclasses.dataclass(frozen=True)
class CaiCritiqueAblation:
    trial: PaperTrial = config.group(PaperTrial)
    revising: AblationFlags = config.group(AblationFlags)


def measure(cfg: CaiCritiqueAblation, runs: Any) -> Result:
    """By model and way: P(harmful) after each round."""
    found = {}
    for name, flag in MODELS.items():
        base = recipes.pretrained(runs, *([flag] if flag else []))
        policy = recipes.helpful(runs, base)
        source = f"tinytown:redteam:test?held_out={cfg.revising.prompts}"
        found[name] = {
            way: [one["harmful"] for one in recipes.rounds(recipes.revised(runs, policy, base, source, own))]
            for way, own in WAYS.items()
        }
    return found


def gap(result: Result, name: str) -> float:
    """Direct less critiqued P(harmful), the mean over rounds, in points."""
    direct, critiqued = (result[name][way][1:] for way in ("direct", "critiqued"))
    return 100 * (sum(direct) - sum(critiqued)) / len(direct)


def judge(cfg: CaiCritiqueAblation, results: list[Result]) -> list[Check]:
    """The smallest model's gap against the largest's."""
    small, large = next(iter(MODELS)), [*MODELS][-1]
    gaps = [{name: gap(result, name) for name in MODELS} for result in results]

    def shrinks(one: dict[str, float]) -> tuple[bool, str]:
        return one[small] > one[large], ", ".join(f"{name} {value:+.0f}" for name, value in one.items())

    return [
        by_seed("gap of the smallest model above that of the largest, points", gaps, shrinks),
        on_mean(
            "gap of the smallest model above 0, points", [one[small] for one in gaps], low=1e-9, digits=1
        ),
    ]


def draw(cfg: CaiCritiqueAblation, results: list[Result], figure: Any) -> None:
    """P(harmful) over revisions with and without a critique, a panel a size, as Figure 7."""
    from jaxtrain.apps.papers import figures

    panels = figure.subplots(1, len(MODELS), sharey=True)
    for axes, name in zip(panels, MODELS, strict=True):
        for way in WAYS:
            values = [[100 * one for one in result[name][way]] for result in results]
            figures.band(axes, range(len(values[0])), values, way)
        axes.set(xlabel="revisions", ylim=(0, 103))
        axes.set_title(f"{name} parameters")
    panels[0].set(ylabel="harmful answers, %")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)


def main(cfg: CaiCritiqueAblation) -> None:
    """Revises answers with and without critiques, at three sizes."""
    from jaxtrain.apps.papers import trials

    trials.run(PAPER, cfg, measure, judge, draw)


if __name__ == "__main__":
    flags.launch(CaiCritiqueAblation, main, "./launch/run papers.cai_critique_ablation")
