"""The parametric scaling law on 16 runs, where the irreducible loss that it estimates is known."""

import dataclasses
import math
from typing import Any, NamedTuple

from experiments.papers import recipes
from jaxtrain import config, flags
from jaxtrain.apps.papers.config import SIZES, PaperTrial
from jaxtrain.apps.papers.verdicts import Check, Paper, Result, by_seed, on_mean

PAPER = Paper(
    name="chinchilla_fit",
    title="A scaling law whose irreducible loss is known",
    source="Hoffmann et al. 2022, arXiv:2203.15556",
    figure="section 3.3, Figure 4",
    claim="L(N, D) = E + A/N^α + B/D^β fits the final losses of runs, and E estimates the entropy of text.",
    published="E 1.69, A 406.4, B 410.7, α .34, β .28 (from memory); fitted again in arXiv:2404.10102: E 1.82",
    measured="Four sizes, 20k to 600k parameters, at four budgets of C = 6ND on the embedded world's documents, whose "
    "entropy is known exactly: the fit with Huber's loss (δ = 1e-3 of log L) on 15 runs; the 16th, the largest model "
    "at the largest budget, is predicted. Sizes and budgets were set on seed 3, after a first run of seeds 0 to 2 at "
    "1e11 to 1.5e12 FLOPs, in which the larger models had hardly begun to learn.",
    criterion="E within 10 % of the entropy by the mean over seeds; all five parameters finite; the run that is "
    "held out predicted within 2 % in two thirds of the seeds.",
    sizes=SIZES,
)
SEQ = 128


class ModelGrid(NamedTuple):
    """Flags of models, budgets in FLOPs, rows of a batch. gpu: 4M to 90M parameters, 1.8e16 FLOPs in all runs."""

    models: tuple[tuple[str, ...], ...]
    budgets: tuple[float, ...]
    rows: int
    data: str


def by_name(model: str) -> tuple[str, ...]:
    return (f"--model={model}", "--optimizer=muon", "--lr=0.01")


SIZE = {
    # Smaller than --depth=1: from there on a model has room for all of the embedded world, and N hardly counts.
    "cpu": ModelGrid(
        (
            by_name("tinytown-200k,width=16,ff=48"), by_name("tinytown-200k,width=32,ff=96"),
            by_name("tinytown-200k,width=64,ff=192"), by_name("tinytown-1m,layers=2"),
        ),
        (7e11, 1.4e12, 2.8e12, 5.6e12), 8, "tinytown:pretrain",
    ),
    "gpu": ModelGrid(
        tuple((f"--depth={depth}",) for depth in (4, 6, 8, 12)),
        (1e14, 3e14, 1e15, 3e15), 16, "tinytown:pretrain?documents=1000000",
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ChinchillaFit:
    trial: PaperTrial = config.group(PaperTrial)


def measure(cfg: ChinchillaFit, runs: Any) -> Result:
    """The runs' parameters, tokens and losses, the entropy, the law fitted to all but the last, and its prediction."""
    from jaxtrain.apps.papers import scaling_fit

    size = SIZE[cfg.trial.size]
    points, entropy = [], math.nan
    for model in size.models:
        n, tokens = parameters(model), size.rows * SEQ
        for budget in size.budgets:
            steps = max(8, round(budget / (6 * n * tokens)))
            run = train(runs, size, model, steps)
            points.append([n, steps * tokens, recipes.final(runs, run, "eval/loss"), budget])
            bits, above = (recipes.final(runs, run, f"eval/{name}") for name in
                           ("bits_per_byte", "bits_per_byte_above_entropy"))  # fmt: skip
            entropy = points[-1][2] * (1 - above / bits)
    n, d, losses, _ = zip(*points[:-1], strict=True)
    law = scaling_fit.fit(n, d, losses)
    return {
        "points": points,
        "entropy": entropy,
        "law": law._asdict(),
        "predicted": law.loss(*points[-1][:2]),
    }


def train(runs: Any, size: ModelGrid, model: tuple[str, ...], steps: int) -> Any:
    return runs.train(
        "pretrain", *model, f"--data={size.data}", f"--steps={steps}", f"--batch_size={size.rows}",
        f"--seq_len={SEQ}", f"--warmup={min(50, steps // 10)}", "--sample_every=0", "--eval_every=0",
        "--checkpoint_every=0", "--eval_batches=64",
    )  # fmt: skip


def parameters(model: tuple[str, ...]) -> int:
    """The number of parameters of a model with a vocabulary of 1,024."""
    from jaxtrain.models import depth_rule, transformer, zoo

    name, value = model[0].removeprefix("--").split("=", 1)
    arch = zoo.resolve(depth_rule.shape(int(value)) if name == "depth" else value)
    return transformer.parameters(dataclasses.replace(arch, vocab=1_024))


def judge(cfg: ChinchillaFit, results: list[Result]) -> list[Check]:
    """The irreducible loss, the parameters, and the held-out run."""
    off = [100 * abs(one["law"]["E"] / one["entropy"] - 1) for one in results]
    missed = [abs(one["predicted"] / one["points"][-1][2] - 1) for one in results]

    def finite(law: Result) -> tuple[bool, str]:
        text = ", ".join(f"{name} {value:.3g}" for name, value in law.items())
        return all(math.isfinite(value) and value > 1e-5 for value in law.values()), text

    check = on_mean("E off the entropy, in %, at most 10", off, high=10, digits=1)
    pairs = "; ".join(f"{one['law']['E']:.3f} of {one['entropy']:.3f}" for one in results)
    return [
        check._replace(numbers=f"{check.numbers} ({pairs})"),
        by_seed("five finite parameters", [one["law"] for one in results], finite),
        by_seed("held-out run within 2 %", missed, lambda x: (x <= 0.02, f"{x:.1%}")),
    ]


def draw(cfg: ChinchillaFit, results: list[Result], figure: Any) -> None:
    """Loss over parameters at each budget (the first seed), its law as lines, the entropy and E."""
    import numpy as np

    from jaxtrain.apps.papers.scaling_fit import ScalingLaw

    axes = figure.subplots()
    first = results[0]
    law = ScalingLaw(**first["law"])
    sizes = np.geomspace(min(p[0] for p in first["points"]), max(p[0] for p in first["points"]), 60)
    for budget in SIZE[cfg.trial.size].budgets:
        points = [(n, loss) for n, _, loss, c in first["points"] if c == budget]
        (line,) = axes.plot(*zip(*points, strict=True), "o", label=f"C = {budget:.1e}")
        axes.plot(
            sizes, [law.loss(n, budget / (6 * n)) for n in sizes], color=line.get_color(), linewidth=1.2
        )
    axes.axhline(first["entropy"], color="grey", linewidth=1, label="entropy")
    axes.axhline(law.E, color="grey", linestyle="--", linewidth=1, label="E of the fit")
    axes.set_xscale("log")
    axes.set(xlabel="parameters", ylabel="held-out loss, nats a token")
    axes.set_title("Final losses by budget, and the fitted law")
    axes.legend(ncols=2)


def main(cfg: ChinchillaFit) -> None:
    """Pretrains four sizes at four budgets and fits the law."""
    from jaxtrain.apps.papers import trials

    trials.run(PAPER, cfg, measure, judge, draw)


if __name__ == "__main__":
    flags.launch(ChinchillaFit, main, "./launch/run papers.chinchilla_fit")
