"""DPO and its relatives under flipped labels: the true reward of the policies they end at."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from experiments.papers import review_models, review_preferences
from experiments.papers.review_models import LmSize
from jaxtrain import config, flags
from jaxtrain.apps.papers.config import PaperTrial
from jaxtrain.apps.papers.verdicts import Check, Paper, Result, on_mean

PAPER = Paper(
    name="dpo_variants",
    title="DPO and its relatives under flipped labels",
    source="Rafailov et al. 2023, arXiv:2305.18290; Chowdhury et al. 2024, arXiv:2403.00409; Azar et al. 2023, "
    "arXiv:2310.12036",
    figure="section 3 of the first; section 5 of the second; section 5 of the third",
    claim="Losses that expect flipped labels (cDPO, robust DPO) or that are bounded in the margin (IPO) lose less to "
    "them than DPO.",
    published="robust DPO above DPO and cDPO on IMDb with 10 to 40 % of the labels flipped; curves (from memory)",
    measured="Continuations of the first 2 to 8 tokens of reviews by a language model of 25k parameters, 4 of each of "
    "256 prompts, all pairs, labels by the true reward, 0 to 30 % of them flipped; 150 steps of 64 pairs of "
    "each loss, three times, with other labels flipped; cDPO and robust DPO know the share. The true reward on 1,024 "
    "held-out prompts at temperature 1.",
    criterion="At 30 % flipped labels the true reward of cDPO, of robust DPO and of IPO is at least DPO's, by the mean "
    "over seeds.",
)
SIZE = LmSize(2, 32, 4, 64)
NOISE = (0.0, 0.1, 0.2, 0.3)
DPO = "DPO"


class Variant(NamedTuple):
    """A loss: its fields of DpoLoss, and whether its label smoothing is the share of flipped labels."""

    flags: dict[str, Any]
    smoothed: bool = False


VARIANTS = {
    DPO: Variant({}),
    "cDPO": Variant({}, True),
    "robust": Variant({"loss": "robust"}, True),
    "IPO": Variant({"loss": "ipo", "summed": True}),
    "hinge": Variant({"loss": "hinge"}),
    "SimPO": Variant({"loss": "simpo"}),
    "ORPO": Variant({"loss": "orpo"}),
    "KTO": Variant({"loss": "kto"}),
}
AT_LEAST_DPO = ("cDPO", "robust", "IPO")
SAME_WITHOUT_NOISE = ("cDPO", "robust")  # as DPO


@dataclasses.dataclass(frozen=True)
class VariantsFlags(config.Group):
    # fmt: off
    prompts: int = config.arg(256, "Prompts of the comparisons; each has 6", low=8)
    held_out: int = config.arg(1_024, "Prompts that the true reward is measured on", low=8)
    steps: int = config.arg(150, "Updates of each loss", low=1)
    draws: int = config.arg(3, "Draws of the flipped labels, and of the order, that each result is the mean of", low=1)
    batch_size: int = config.arg(64, "Comparisons of an update", low=1)
    lr: float = config.arg(1e-3, "Adam's learning rate", low=0)
    # fmt: on


@dataclasses.dataclass(frozen=True)
class DpoVariants:
    trial: PaperTrial = config.group(PaperTrial)
    variants: VariantsFlags = config.group(VariantsFlags)


def measure(cfg: DpoVariants, runs: Any) -> Result:
    """{"first": the first policy's reward, "by": LOSS -> NOISE -> {"reward", "kl"}}."""
    from experiments.dpo import DpoLoss

    options = cfg.variants
    policy = review_models.trained(SIZE, runs.seed)
    sample = review_models.sampler(policy.model)
    some, _ = review_preferences.prompts(runs.seed, "variants", options.prompts)
    four = sample(policy.params, review_preferences.repeated(some, 4), runs.seed)
    gold = review_models.scores(four)
    pairs = review_preferences.compare(
        some, four.reshape(-1, 4, review_models.LENGTH), lambda first, second: gold[first] > gold[second]
    )
    held_out, _ = review_preferences.prompts(runs.seed, "variants held out", options.held_out)
    evaluate = review_preferences.evaluation(policy, sample, held_out, review_models.scores, runs.seed + 1)
    found: dict[str, dict[str, Any]] = {name: {} for name in VARIANTS}
    for noise in NOISE:
        draws = options.draws if noise else 1
        turned = [
            review_preferences.columns(
                policy, review_preferences.flipped(pairs, noise, 1_000 * i + runs.seed)
            )
            for i in range(draws)
        ]
        for name, variant in VARIANTS.items():
            if not noise and name in SAME_WITHOUT_NOISE:
                found[name][str(noise)] = found[DPO][str(noise)]
                continue
            objective = review_preferences.preference_objective(
                policy, DpoLoss(**variant.flags), noise if variant.smoothed else 0.0
            )
            ends = [
                evaluate(
                    review_preferences.fit_preferences(
                        policy, rows, objective, lr=options.lr, batch=options.batch_size, steps=options.steps,
                        seed=1_000 * i + runs.seed,
                    )
                )
                for i, rows in enumerate(turned)
            ]  # fmt: skip
            found[name][str(noise)] = {key: float(np.mean([end[key] for end in ends])) for key in ends[0]}
            review_models.progress(
                runs.seed, f"{noise:.0%} flipped, {name}: {found[name][str(noise)]['reward']:.2f}"
            )
    return {"first": evaluate(policy.params), "by": found}


def judge(cfg: DpoVariants, results: list[Result]) -> list[Check]:
    """The gain over DPO at the largest share of flipped labels."""
    most = str(NOISE[-1])
    return [
        on_mean(
            f"{name} less DPO at {NOISE[-1]:.0%} flipped labels, at least 0",
            [one["by"][name][most]["reward"] - one["by"][DPO][most]["reward"] for one in results],
            low=0,
        )
        for name in AT_LEAST_DPO
    ]


def draw(cfg: DpoVariants, results: list[Result], figure: Any) -> None:
    """The true reward over the share of flipped labels, means over seeds."""
    axes = figure.subplots()
    for name, marker in zip(VARIANTS, "os^vD<>P", strict=True):
        values = [[one["by"][name][str(noise)]["reward"] for noise in NOISE] for one in results]
        style = "-" if name in (DPO, *AT_LEAST_DPO) else ":"
        axes.plot([100 * noise for noise in NOISE], np.mean(values, 0), style, marker=marker, label=name)
    axes.axhline(
        np.mean([one["first"]["reward"] for one in results]),
        color="grey",
        linestyle="--",
        label="first policy",
    )
    axes.set(xlabel="flipped labels, %", ylabel="true reward", title="Preference losses on noisy labels")
    figure.legend(loc="outside right upper")


def main(cfg: DpoVariants) -> None:
    """Trains a policy by each loss on labels of each noise, and measures its true reward."""
    from jaxtrain.apps.papers import trials

    trials.run(PAPER, cfg, measure, judge, draw)


if __name__ == "__main__":
    flags.launch(DpoVariants, main, "./launch/run papers.dpo_variants")
