"""Ensembles of reward models under noisy labels: best of n by their mean, by the worst, and less their variance."""

import dataclasses
from typing import Any

import numpy as np

from experiments.papers import review_models, reward_proxies
from experiments.papers.review_models import LmSize
from jaxtrain import config, flags
from jaxtrain.apps.papers.config import PaperTrial
from jaxtrain.apps.papers.verdicts import Check, Paper, Result, by_seed

PAPER = Paper(
    name="rm_ensembles",
    title="Ensembles of reward models against overoptimization",
    source="Coste et al. 2023, arXiv:2310.02743",
    figure="figures 2 and 3, best of n with 25 % label noise",
    claim="Best of n by the worst score of an ensemble (WCO), or by its mean less its variance (UWO), loses less to "
    "overoptimization than by a single reward model.",
    published="with 25 % label noise single models fall at large n, WCO and UWO hardly do; n up to 12,500 (read in the "
    "authors' repository)",
    measured="The reviews of papers.overoptimization; 5 MLP-64 reward models of 1,000 comparisons, 25 % of whose "
    "labels are flipped, that differ in their initial parameters and the order of the pairs; best of 1 to "
    "8,192 by the unbiased estimator; λ = .5.",
    criterion="At the largest n the true reward of WCO and of UWO is above the mean of the single models.",
)
SIZE = LmSize(2, 32, 4, 64)
COUNTS = tuple(2**i for i in range(14))  # n of best of n
RULES = {"mean": "mean of 5", "min": "worst of 5 (WCO)", "penalised": "mean - λ variance (UWO)"}
SINGLE = "single"


@dataclasses.dataclass(frozen=True)
class EnsembleFlags(config.Group):
    # fmt: off
    samples: int = config.arg(60_000, "Reviews of the first policy that best of n chooses from", low=max(COUNTS))
    pairs: int = config.arg(1_000, "Comparisons that every reward model is trained on", low=10)
    members: int = config.arg(5, "Reward models of the ensemble", low=2)
    hidden: int = config.arg(64, "Hidden units of each", low=1)
    flipped: float = config.arg(0.25, "Share of the labels that are flipped", low=0)
    variance_price: float = config.arg(0.5, "UWO's λ, of scores with standard deviation 1", low=0)
    # fmt: on

    def check(self):
        if self.flipped > 1:
            raise config.ConfigError(f"--flipped={self.flipped}: a share, at most 1")


@dataclasses.dataclass(frozen=True)
class RmEnsembles:
    trial: PaperTrial = config.group(PaperTrial)
    ensemble: EnsembleFlags = config.group(EnsembleFlags)


def measure(cfg: RmEnsembles, runs: Any) -> Result:
    """The true reward of the best of each n, in standard deviations of the policy's: by each model and each rule."""
    from jaxtrain.inference import best_of

    settings = cfg.ensemble
    policy = review_models.trained(SIZE, runs.seed)
    sample = review_models.sampler(policy.model)
    pool = review_models.many(sample, policy.params, settings.samples, 1 + runs.seed)
    compared = review_models.many(sample, policy.params, 2 * settings.pairs, 1_001 + runs.seed)
    raw = review_models.scores(pool)
    gold = (raw - raw.mean()) / raw.std()
    data = reward_proxies.compare(
        compared, review_models.scores(compared), settings.pairs, runs.seed, settings.flipped
    )
    seeds = [100 * (runs.seed + 1) + i for i in range(settings.members)]
    scores = reward_proxies.train([data] * settings.members, settings.hidden, seeds)(
        reward_proxies.features(pool)
    )
    scores = normalised(scores)
    return {
        "counts": COUNTS,
        SINGLE: [best_of.expected(one, gold, COUNTS).tolist() for one in scores],
        "rules": {
            name: best_of.expected(one, gold, COUNTS).tolist()
            for name, one in combined(scores, settings.variance_price).items()
        },
        "accuracy": [reward_proxies.accuracy(one, gold, runs.seed) for one in scores],
    }


def normalised(scores: np.ndarray) -> np.ndarray:
    """Scores f64[M, B], each model's with mean 0 and standard deviation 1 over the policy's samples."""
    return (scores - scores.mean(1, keepdims=True)) / scores.std(1, keepdims=True)


def combined(scores: np.ndarray, price: float) -> dict[str, np.ndarray]:
    """By rule the score f64[B] of an ensemble's f64[M, B]."""
    from jaxtrain.ops import ensembles

    return {name: np.asarray(ensembles.COMBINED[name](scores, price), np.float64) for name in RULES}


def judge(cfg: RmEnsembles, results: list[Result]) -> list[Check]:
    """WCO and UWO against the mean of the single models, at the largest n."""

    def beats(rule: str) -> Any:
        def holds(result: Result) -> tuple[bool, str]:
            single = float(np.mean([curve[-1] for curve in result[SINGLE]]))
            ours = result["rules"][rule][-1]
            return ours > single, f"{ours:.2f} and {single:.2f}"

        return holds

    return [
        by_seed(f"{name} above single models at n = {COUNTS[-1]:,}", results, beats(rule))
        for rule, name in (("min", "WCO"), ("penalised", "UWO"))
    ]


def draw(cfg: RmEnsembles, results: list[Result], figure: Any) -> None:
    """The true reward over n."""
    from jaxtrain.apps.papers import figures

    axes = figure.subplots()
    curves = {"single models": [np.mean(one[SINGLE], 0) for one in results]}
    curves |= {label: [one["rules"][name] for one in results] for name, label in RULES.items()}
    for label, each in curves.items():
        figures.band(axes, COUNTS, each, label)
    axes.set_xscale("log", base=2)
    axes.set(xlabel="n, best of", ylabel="true reward, standard deviations")
    axes.set_title(f"Best of n with {cfg.ensemble.flipped:.0%} of the labels flipped")
    axes.legend(loc="upper left")


def main(cfg: RmEnsembles) -> None:
    """Trains an ensemble on noisy labels and measures the best of n by each rule."""
    from jaxtrain.apps.papers import trials

    trials.run(PAPER, cfg, measure, judge, draw)


if __name__ == "__main__":
    flags.launch(RmEnsembles, main, "./launch/run papers.rm_ensembles")
