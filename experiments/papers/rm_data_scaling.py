"""Reward models of two sizes on 128 to 8,192 comparisons: agreement with held-out labels grows with the data."""

import dataclasses
import math
from typing import Any

from experiments.papers import recipes
from jaxtrain import config, flags
from jaxtrain.apps.papers.config import PaperTrial
from jaxtrain.apps.papers.verdicts import Check, Paper, Result, above_zero, on_mean

PAPER = Paper(
    name="rm_data_scaling",
    title="A reward model's accuracy and its data",
    source="Stiennon et al. 2020, arXiv:2009.01325",
    figure="Figure 6",
    claim="A reward model's accuracy grows with the number of comparisons and with the size of the model.",
    published="doubling the data adds 1.1 points, doubling the model 1.8 (160M to 13B parameters, 8k to 64k pairs)",
    measured="Reward models of 0.2M and 1M parameters from their SFT models, one epoch of 128, 512, 2,048 and 8,192 "
    "comparisons, accuracy on the labels of 2,000 held-out comparisons (the annotator's own agreement is 77 %).",
    criterion="For each size the slope of accuracy over log2(comparisons) is above 0 with its 95 % interval; the most "
    "comparisons are at least 5 points better than the fewest.",
)
MODELS = {"0.2M": recipes.SMALL, "1M": ""}


@dataclasses.dataclass(frozen=True)
class ScalingFlags(config.Group):
    # fmt: off
    fewest: int = config.arg(128, "Comparisons of the smallest set; each next has four times as many", low=32)
    sets: int = config.arg(4, "Sets of comparisons", low=2)
    held_out: int = config.arg(2_000, "Held-out comparisons", low=100)
    # fmt: on


@dataclasses.dataclass(frozen=True)
class RmDataScaling:
    trial: PaperTrial = config.group(PaperTrial)
    scaling: ScalingFlags = config.group(ScalingFlags)


def pairs(cfg: RmDataScaling) -> list[int]:
    """The numbers of comparisons."""
    return [cfg.scaling.fewest * 4**i for i in range(cfg.scaling.sets)]


def measure(cfg: RmDataScaling, runs: Any) -> Result:
    """By model: accuracy on held-out labels, and by the gold reward, for each number of comparisons."""
    found: dict[str, Any] = {"pairs": pairs(cfg)}
    for name, size in MODELS.items():
        start = recipes.sft(runs, recipes.pretrained(runs, *([f"--model={size}"] if size else [])))
        models = [train(cfg, runs, start, count) for count in pairs(cfg)]
        found[name] = {
            metric: [recipes.final(runs, model, f"eval/{metric}") for model in models]
            for metric in ("accuracy", "gold_accuracy")
        }
    return found


def train(cfg: RmDataScaling, runs: Any, start: Any, count: int) -> Any:
    """A reward model on the first `count` of the seed's comparisons, for one epoch."""
    steps = count // 32
    held_out = f"held_out={cfg.scaling.held_out}&seed={runs.seed}"
    return runs.train(
        "reward", f"--init_from={start}", f"--data=tinytown:preferences?documents={count}&{held_out}",
        f"--eval_data=tinytown:preferences:test?{held_out}", f"--steps={steps}", f"--warmup={min(20, steps // 4)}",
        "--optimizer=muon", "--lr=0.002",
    )  # fmt: skip


def slope(x: list[float], y: list[float]) -> float:
    """The slope of the least-squares line."""
    middle = sum(x) / len(x)
    return sum((a - middle) * b for a, b in zip(x, y, strict=True)) / sum((a - middle) ** 2 for a in x)


def judge(cfg: RmDataScaling, results: list[Result]) -> list[Check]:
    """The slope and the gain of each size."""
    log2 = [math.log2(count) for count in pairs(cfg)]
    checks = []
    for name in MODELS:
        accuracy = [result[name]["accuracy"] for result in results]
        points = [100 * slope(log2, one) for one in accuracy]
        gains = [100 * (one[-1] - one[0]) for one in accuracy]
        checks += [
            above_zero(f"{name}: points a doubling above 0 with the interval", points, digits=2),
            on_mean(f"{name}: points from the fewest to the most, at least 5", gains, low=5, digits=1),
        ]
    return checks


def draw(cfg: RmDataScaling, results: list[Result], figure: Any) -> None:
    """Accuracy over the number of comparisons, a line a size."""
    from jaxtrain.apps.papers import figures

    axes = figure.subplots()
    for name in MODELS:
        figures.band(axes, pairs(cfg), [result[name]["accuracy"] for result in results], f"{name} parameters")
    axes.set_xscale("log", base=2)
    axes.set_xticks(pairs(cfg), [f"{count:,}" for count in pairs(cfg)])
    axes.set(xlabel="comparisons", ylabel="accuracy on held-out labels")
    axes.set_title("Accuracy of reward models after one epoch")
    axes.legend()


def main(cfg: RmDataScaling) -> None:
    """Trains reward models on sets of comparisons that grow fourfold."""
    from jaxtrain.apps.papers import trials

    trials.run(PAPER, cfg, measure, judge, draw)


if __name__ == "__main__":
    flags.launch(RmDataScaling, main, "./launch/run papers.rm_data_scaling")
