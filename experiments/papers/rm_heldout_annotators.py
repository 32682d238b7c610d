"""Reward models of one group of annotators, tested on comparisons of both: how far they generalise to other people."""

import dataclasses
from typing import Any

from experiments.papers import recipes
from jaxtrain import config, flags
from jaxtrain.apps.papers.config import PaperTrial
from jaxtrain.apps.papers.verdicts import Check, Paper, Result, by_seed, on_mean

PAPER = Paper(
    name="rm_heldout_annotators",
    title="Reward models and annotators whom they have not seen",
    source="Ouyang et al. 2022, arXiv:2203.02155",
    figure="section 4.1 and appendix E.2",
    claim="A reward model predicts the choices of annotators outside its training data slightly worse than those of "
    "its own, so that it is not fitted to their tastes alone.",
    published="69.6 ± 0.9 % for held-out annotators, 72.4 ± 0.4 % for those of the training set (from memory)",
    measured="Two groups of annotators who share the gold reward and differ in taste (A likes numbered lists and "
    "length, B neither; two of a group agree on 73 %): a reward model of each, on 2,000 comparisons of each.",
    criterion="The accuracy on the model's own group is higher than on the other's; the gap is 1 to 8 points.",
)
GROUPS = ("A", "B")


@dataclasses.dataclass(frozen=True)
class AnnotatorFlags(config.Group):
    # fmt: off
    pairs: int = config.arg(8_000, "Comparisons that each reward model is trained on, once", low=320)
    held_out: int = config.arg(2_000, "Held-out comparisons of each group", low=100)
    # fmt: on


@dataclasses.dataclass(frozen=True)
class RmHeldoutAnnotators:
    trial: PaperTrial = config.group(PaperTrial)
    annotators: AnnotatorFlags = config.group(AnnotatorFlags)


def measure(cfg: RmHeldoutAnnotators, runs: Any) -> Result:
    """The accuracy of each group's reward model on the labels of each."""
    flags = cfg.annotators
    # The accuracy is reported by a record's family, which here is the group that labelled it.
    labelled = [
        {**row, "family": group}
        for group in GROUPS
        for row in recipes.town_rows(
            "preferences", "test", group=group, held_out=flags.held_out, seed=runs.seed
        )
    ]
    held_out = recipes.write_records(runs, "annotators", labelled)
    start = recipes.sft(runs)
    found = {}
    for group in GROUPS:
        model = runs.train(
            "reward", f"--init_from={start}", f"--eval_data={held_out}", f"--steps={flags.pairs // 32}",
            f"--data=tinytown:preferences?documents={flags.pairs}&group={group}&seed={runs.seed}",
            "--optimizer=muon", "--lr=0.002",
        )  # fmt: skip
        found[group] = {other: recipes.final(runs, model, f"eval/accuracy/{other}") for other in GROUPS}
    return found


def own_and_other(result: Result) -> tuple[float, float]:
    """(accuracy on the own group, on the other), means of both models."""
    own = sum(result[group][group] for group in GROUPS) / 2
    other = sum(result[group][rest] for group, rest in zip(GROUPS, reversed(GROUPS), strict=True)) / 2
    return own, other


def judge(cfg: RmHeldoutAnnotators, results: list[Result]) -> list[Check]:
    """Own above other in each seed, and the gap's size."""
    both = [own_and_other(result) for result in results]
    gaps = [100 * (own - other) for own, other in both]
    return [
        by_seed("own group above the other", both, lambda x: (x[0] > x[1], f"{x[0]:.1%} and {x[1]:.1%}")),
        on_mean("gap in points, 1 to 8", gaps, low=1, high=8, digits=1),
    ]


def draw(cfg: RmHeldoutAnnotators, results: list[Result], figure: Any) -> None:
    """Bars of the accuracy of each reward model on each group, with each seed as a point."""
    axes = figure.subplots()
    for i, (label, flip) in enumerate(
        (("comparisons of its own group", False), ("of the other group", True))
    ):
        for j, group in enumerate(GROUPS):
            on = GROUPS[1 - j] if flip else group
            values = [100 * result[group][on] for result in results]
            x = j + (i - 0.5) * 0.36
            axes.bar(
                x, sum(values) / len(values), 0.34, color=f"C{i}", alpha=0.75, label=label if not j else None
            )
            axes.plot([x] * len(values), values, "o", color=axes.xaxis.label.get_color())
    axes.set_xticks(range(len(GROUPS)), [f"reward model of group {group}" for group in GROUPS])
    axes.set(ylabel="accuracy on labels, %", ylim=(50, 85))
    axes.set_title("Reward models on annotators of their own group and of another")
    axes.legend(loc="upper right", ncols=2)


def main(cfg: RmHeldoutAnnotators) -> None:
    """Trains a reward model on each group's comparisons and measures both on both."""
    from jaxtrain.apps.papers import trials

    trials.run(PAPER, cfg, measure, judge, draw)


if __name__ == "__main__":
    flags.launch(RmHeldoutAnnotators, main, "./launch/run papers.rm_heldout_annotators")
