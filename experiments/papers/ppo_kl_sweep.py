"""PPO at five prices of the KL: the gold reward has its maximum inside, the reward model's score at a price of zero."""

import dataclasses
from typing import Any

from experiments.papers import recipes
from jaxtrain import config, flags
from jaxtrain.apps.papers.config import PaperTrial
from jaxtrain.apps.papers.verdicts import Check, Paper, Result, by_seed

PAPER = Paper(
    name="ppo_kl_sweep",
    title="The price of the KL in PPO",
    source="Ouyang et al. 2022, arXiv:2203.02155",
    figure="appendix E.6 and E.7, Figure 36",
    claim="The preference for the policy has an inverted U over the coefficient of the KL: 0 and 2 are both "
    "bad.",
    published="the best coefficients are .01 to .02, of those between 0 and 2",
    measured="PPO from the same SFT and reward models with the coefficients 0, .03, .12, .5 and 3 of a reward of "
    "variance 1, 64 iterations of 256 completions, without a pretraining loss; a reward model of 1,000 "
    "comparisons, which can be exploited; gold reward and reward model's score on held-out prompts.",
    criterion="The mean gold reward over seeds is highest at neither end; in two thirds of the seeds the reward "
    "model's score falls as the coefficient grows.",
)
PRICES = (0.0, 0.03, 0.12, 0.5, 3.0)
FREE = 1e-9  # in place of 0, at which PPO has no reference model and measures no KL


@dataclasses.dataclass(frozen=True)
class KlSweepFlags(config.Group):
    # fmt: off
    pairs: int = config.arg(1_000, "Comparisons that the reward model is trained on, once", low=64)
    iterations: int = config.arg(64, "Iterations of PPO", low=8)
    # fmt: on


@dataclasses.dataclass(frozen=True)
class PpoKlSweep:
    trial: PaperTrial = config.group(PaperTrial)
    sweep: KlSweepFlags = config.group(KlSweepFlags)


def measure(cfg: PpoKlSweep, runs: Any) -> Result:
    """By price: gold reward, the reward model's score and the KL at the end."""
    sft = recipes.sft(runs)
    pairs, steps = cfg.sweep.pairs, cfg.sweep.pairs // 32
    model = recipes.reward(
        runs, sft, f"--data=tinytown:preferences?documents={pairs}&seed={runs.seed}", f"--steps={steps}",
        f"--warmup={min(20, steps // 4)}",
    )  # fmt: skip
    found: dict[str, list[float]] = {"gold": [], "score": [], "kl": []}
    for price in PRICES:
        run = recipes.ppo(
            runs, sft, model, f"--kl_coef={price or FREE}", "--ptx_weight=0", f"--steps={cfg.sweep.iterations}"
        )  # fmt: skip
        found["gold"].append(recipes.measures(recipes.answers(runs, run))["gold"])
        # The last eighth of the iterations, before the price is taken off.
        for name, metric in (("score", "objective/scores"), ("kl", "objective/kl")):
            rows = [row[metric] for row in runs.rows(run) if metric in row]
            last = rows[-max(1, len(rows) // 8) :]
            found[name].append(sum(last) / len(last))
    return found


def judge(cfg: PpoKlSweep, results: list[Result]) -> list[Check]:
    """The maximum's place, and the falling score."""
    gold = [sum(result["gold"][i] for result in results) / len(results) for i in range(len(PRICES))]
    best = gold.index(max(gold))
    inside = 0 < best < len(PRICES) - 1
    numbers = ", ".join(f"{price:g}: {value:.2f}" for price, value in zip(PRICES, gold, strict=True))

    def falls(result: Result) -> tuple[bool, str]:
        scores = result["score"]
        return scores == sorted(scores, reverse=True), " ".join(f"{score:.2f}" for score in scores)

    return [
        Check("mean gold reward highest at neither end", inside, numbers),
        by_seed("reward model's score falls with the price", results, falls),
    ]


def draw(cfg: PpoKlSweep, results: list[Result], figure: Any) -> None:
    """Gold reward and reward model's score over the price, the prices at equal distances."""
    from jaxtrain.apps.papers import figures

    left, right = figure.subplots(1, 2)
    places = range(len(PRICES))
    figures.band(left, places, [result["gold"] for result in results], "gold reward")
    figures.band(left, places, [result["score"] for result in results], "reward model's score")
    figures.band(right, places, [result["kl"] for result in results], "KL", color="C2")
    for axes, label in ((left, "reward"), (right, "KL from SFT, nats a completion")):
        axes.set_xticks(places, [f"{price:g}" for price in PRICES])
        axes.set(xlabel="price of a nat of KL", ylabel=label)
    left.legend()
    figure.suptitle("PPO by the price of the KL", fontsize=11)


def main(cfg: PpoKlSweep) -> None:
    """Trains PPO at each price of the KL from the same models."""
    from jaxtrain.apps.papers import trials

    trials.run(PAPER, cfg, measure, judge, draw)


if __name__ == "__main__":
    flags.launch(PpoKlSweep, main, "./launch/run papers.ppo_kl_sweep")
