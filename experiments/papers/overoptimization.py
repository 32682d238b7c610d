"""Reward-model overoptimization: the true reward against the distance from the first policy, by best of n and by RL."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.papers import review_models, reward_proxies
from experiments.papers.review_models import LmSize
from jaxtrain import config, flags
from jaxtrain.apps.papers.config import PaperTrial
from jaxtrain.apps.papers.verdicts import Check, Paper, Result, by_seed

PAPER = Paper(
    name="overoptimization",
    title="Overoptimization of reward models",
    source="Gao et al. 2022, arXiv:2210.10760",
    figure="figures 1 and 3",
    claim="With d the root of KL(policy ‖ first policy), the true reward is d(a - b d) under best of n and d(a - b log "
    "d) under RL: it rises, then falls, later with more data, and RL spends more KL.",
    published="these forms fit proxies of 3M to 3B parameters; fewer than about 2,000 comparisons: near chance (from "
    "memory)",
    measured="Reviews whose true reward saturates in praise and punishes gushing, repeats and rambling. A language "
    "model of 25k parameters; linear, MLP-8 and MLP-64 reward models of 250 to 16k comparisons, 3 RM seeds "
    "each; best of 1 to 2,048 by the unbiased estimator; RLOO without KL penalty against each of those of 1k "
    "comparisons, up to 60 nats. RL's rate, ten rewards at which KL is compared, and RL on all three RM seeds in place "
    "of the first were set on seed 3 after runs of seeds 0 to 2.",
    criterion="Best of n: R² of d(a - b d) above .9 in every configuration; with 250 pairs the reward at n = 2,048 is "
    ".05 below its maximum; the peak's n does not fall with data (Spearman above 0). RL: the reward peaks "
    "before the end by .05, the proxy rises on, R² of d(a - b log d) above .8 for d > 1, and at equal reward "
    "its KL is above that of best of n.",
    sizes=("cpu", "gpu"),
)
PROXIES = {"linear": reward_proxies.LINEAR, "MLP-8": 8, "MLP-64": 64}
PAIRS = (250, 1_000, 4_000, 16_000)
COUNTS = tuple(2**i for i in range(12))  # n of best of n
RL_PAIRS = 1_000
FELL = 0.05  # standard deviations of the true reward below its maximum
SMOOTH = 5  # logged points of RL in a mean
LEVELS = 10  # rewards at which RL's KL is compared with best of n's


class OveroptimizationSize(NamedTuple):
    """The policy, and RL on it; the reward models are the same at every size."""

    lm: LmSize
    rl_batch: int
    rl_lr: float
    rl_models: int  # reward models of each kind that RL is run against, of --rm_seeds


SIZES = {
    "cpu": OveroptimizationSize(LmSize(2, 32, 4, 64), 64, 5e-4, 3),
    # 25M parameters; 92k samples and three times 400 iterations of 1,024 reviews are 6e15 FLOPs: most of the time is
    # that of decoding token by token.
    "gpu": OveroptimizationSize(
        LmSize(8, 512, 8, 1_408, "bfloat16", lr=1e-3, steps=800, batch=256), 1_024, 1e-4, 1
    ),
}


@dataclasses.dataclass(frozen=True)
class OveroptimizationFlags(config.Group):
    # fmt: off
    samples: int = config.arg(60_000, "Reviews of the first policy that best of n chooses from", low=2_048)
    rm_seeds: int = config.arg(3, "Reward models of each configuration", low=1)
    iterations: int = config.arg(400, "Most iterations of RL", low=10)
    kl_end: float = config.arg(60.0, "KL in nats at which RL ends", low=1)
    # fmt: on


@dataclasses.dataclass(frozen=True)
class Overoptimization:
    trial: PaperTrial = config.group(PaperTrial)
    over: OveroptimizationFlags = config.group(OveroptimizationFlags)


class TrueReward(NamedTuple):
    """The true reward in standard deviations of the first policy's, less its mean."""

    mean: float
    std: float

    def of(self, tokens: np.ndarray) -> np.ndarray:
        return (review_models.scores(tokens) - self.mean) / self.std


def measure(cfg: Overoptimization, runs: Any) -> Result:
    """{"bon": PROXY -> PAIRS -> curve and fit, "rl": PROXY -> a curve and fit for each reward model}."""
    over, size = cfg.over, SIZES[cfg.trial.size]
    policy = review_models.trained(size.lm, runs.seed)
    sample = review_models.sampler(policy.model)
    pool = review_models.many(sample, policy.params, over.samples, 1 + runs.seed)
    compared = review_models.many(sample, policy.params, 2 * max(PAIRS), 1_001 + runs.seed)
    raw = review_models.scores(pool)
    true = TrueReward(float(raw.mean()), float(raw.std()))
    gold, gold_compared = true.of(pool), true.of(compared)
    distance = np.sqrt([kl_of_best(n) for n in COUNTS])
    seen, bon, rl = reward_proxies.features(pool), {}, {}
    for name, hidden in PROXIES.items():
        bon[name] = {}
        for pairs in PAIRS:
            proxy = trained_proxy(compared, gold_compared, hidden, pairs, over.rm_seeds, runs.seed)
            scores = proxy(seen)
            bon[name][str(pairs)] = best_of_n(scores, gold, distance, runs.seed)
            review_models.progress(
                runs.seed, f"{name}, {pairs:,} pairs: best at n = {bon[name][str(pairs)]['peak']:,}"
            )
            if pairs == RL_PAIRS:
                rl[name] = [
                    {"bon": best_of_n(own[None], gold, distance, runs.seed)}
                    | by_rl(cfg, policy, sample, reward_proxies.as_reward(proxy, seen, i), true, runs.seed, i)
                    for i, own in enumerate(scores[: size.rl_models])
                ]
    return {"distance": distance.tolist(), "bon": bon, "rl": rl,
            "gold": best_of_n(gold[None], gold, distance, runs.seed)}  # fmt: skip


def kl_of_best(n: int) -> float:
    """KL(best of n ‖ policy) in nats."""
    from jaxtrain.inference import best_of

    return best_of.kl(n)


def trained_proxy(
    tokens: np.ndarray, gold: np.ndarray, hidden: int, pairs: int, rm_seeds: int, seed: int
) -> Any:
    """Reward models of `rm_seeds` seeds, each with pairs, labels and initial parameters of its own."""
    seeds = [100 * (seed + 1) + i for i in range(rm_seeds)]
    orders = [np.random.default_rng(one).permutation(len(tokens)) for one in seeds]
    data = [
        reward_proxies.compare(tokens[order], gold[order], pairs, one)
        for one, order in zip(seeds, orders, strict=True)
    ]
    return reward_proxies.train(data, hidden, seeds)


def best_of_n(scores: np.ndarray, gold: np.ndarray, distance: np.ndarray, seed: int) -> dict[str, Any]:
    """The mean over reward models, scores f64[M, B], of the true reward of the best of each n, and its fit."""
    from jaxtrain.inference import best_of

    curve = np.mean([best_of.expected(one, gold, COUNTS) for one in scores], 0)
    return {
        "gold": curve.tolist(),
        "peak": COUNTS[int(curve.argmax())],
        "accuracy": float(np.mean([reward_proxies.accuracy(one, gold, seed) for one in scores])),
        **fit(distance, curve, distance),
    }


def fit(distance: np.ndarray, reward: np.ndarray, turning: np.ndarray) -> dict[str, float]:
    """The least-squares fit of d(a - b t) with t = d for best of n, log d for RL: {"a", "b", "r2"}."""
    d, y = np.asarray(distance), np.asarray(reward)
    if len(d) < 3:
        return {"a": math.nan, "b": math.nan, "r2": math.nan}
    terms = np.stack([d, -d * np.asarray(turning)], 1)
    (a, b), *_ = np.linalg.lstsq(terms, y, rcond=None)
    left, whole = ((y - terms @ (a, b)) ** 2).sum(), ((y - y.mean()) ** 2).sum()
    return {"a": float(a), "b": float(b), "r2": float(1 - left / whole)}


def by_rl(
    cfg: Overoptimization, policy: Any, sample: Any, reward: Any, true: TrueReward, seed: int, which: int
) -> dict[str, Any]:
    """RLOO without a KL penalty against reward model `which`: KL, true reward and score as it goes, and the fit."""
    size = SIZES[cfg.trial.size]
    log = review_models.rloo(
        policy, sample, reward, true.of, batch=size.rl_batch, lr=size.rl_lr, iterations=cfg.over.iterations,
        kl_end=cfg.over.kl_end, seed=seed + 1_000 * which, measured=2_048,
    )  # fmt: skip
    d = np.sqrt(log["kl"])
    far = d > 1
    review_models.progress(
        seed, f"RL {which + 1}: {log['iteration'][-1]} iterations, KL {log['kl'][-1]:.1f} nats"
    )
    return {**log, "distance": d.tolist(), **fit(d[far], np.array(log["gold"])[far], np.log(d[far]))}


def smoothed(x: Sequence[float]) -> np.ndarray:
    """The mean of SMOOTH neighbours, fewer at the ends."""
    values, ones = np.asarray(x, float), np.ones(len(x))
    window = np.ones(min(SMOOTH, len(values)))
    return np.convolve(values, window, "same") / np.convolve(ones, window, "same")


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """The rank correlation, ties with their mean rank; 0 where all of one are equal."""
    ranks = []
    for values in (x, y):
        _, place, size = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(size) - (size - 1) / 2)[place])
    if min(np.std(ranks[0]), np.std(ranks[1])) == 0:
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])


def first_reaches(kl: Sequence[float], gold: Sequence[float], level: float) -> float:
    """The KL at which a curve first reaches a reward, between its points; infinite where it never does."""
    for i, value in enumerate(gold):
        if value >= level:
            if not i:
                return float(kl[0])
            share = (level - gold[i - 1]) / (value - gold[i - 1])
            return float(kl[i - 1] + share * (kl[i] - kl[i - 1]))
    return math.inf


def judge(cfg: Overoptimization, results: list[Result]) -> list[Check]:
    """The parts of the criterion, each on every seed."""
    return [
        by_seed(
            "best of n: R² of d(a - b d) above .9 everywhere", results, lambda one: _worst_fit(one["bon"])
        ),
        by_seed("best of n: with 250 pairs, .05 below the maximum at n = 2,048", results, _fell),
        by_seed("best of n: the peak's n does not fall with data", results, _peaks),
        by_seed("RL: .05 below the maximum at the end", results, functools.partial(_of_rl, _peaked)),
        by_seed("RL: the proxy rises on", results, functools.partial(_of_rl, _proxy_rises)),
        by_seed("RL: R² of d(a - b log d) above .8 for d > 1", results, functools.partial(_of_rl, _fits)),
        by_seed("RL: more KL at equal reward than best of n, mean of ten", results, _costs_more),
    ]


def _worst_fit(bon: Result) -> tuple[bool, str]:
    r2 = min(one["r2"] for by_pairs in bon.values() for one in by_pairs.values())
    return r2 > 0.9, f"least {r2:.3f}"


def _fell(result: Result) -> tuple[bool, str]:
    falls = [
        max(one["gold"]) - one["gold"][-1] for by_pairs in result["bon"].values() for one in [by_pairs["250"]]
    ]
    return min(falls) > FELL, "falls of " + ", ".join(f"{fall:.2f}" for fall in falls)


def _peaks(result: Result) -> tuple[bool, str]:
    points = [(int(pairs), one["peak"]) for by in result["bon"].values() for pairs, one in by.items()]
    rank = spearman(*zip(*points, strict=True))
    return rank > 0, f"Spearman {rank:.2f}"


def _of_rl(part: Any, result: Result) -> tuple[bool, str]:
    """A part of the criterion, more than 0 where it holds, that has to hold for RL on every reward model.

    The text is of the reward model of each proxy with which it holds the least.
    """
    least = {
        name: min(map(part, each), key=lambda one: -math.inf if math.isnan(one[0]) else one[0])
        for name, each in result["rl"].items()
    }
    texts = [f"{name} {text}" for name, (_, text) in least.items()]
    return all(margin > 0 for margin, _ in least.values()), ", ".join(texts)


def _peaked(rl: Result) -> tuple[float, str]:
    gold = smoothed(rl["gold"])
    return gold.max() - gold[-1] - FELL, f"{gold.max():.2f} to {gold[-1]:.2f}"


def _proxy_rises(rl: Result) -> tuple[float, str]:
    proxy, peak = smoothed(rl["proxy"]), int(smoothed(rl["gold"]).argmax())
    return proxy[-1] - proxy[peak], f"{proxy[peak]:.2f} to {proxy[-1]:.2f}"


def _fits(rl: Result) -> tuple[float, str]:
    return rl["r2"] - 0.8, f"{rl['r2']:.3f}"


def _costs_more(result: Result) -> tuple[bool, str]:
    """Whether RL needs more KL than best of n by the same reward models, in the mean of ten rewards, on every proxy."""
    needed = {
        name: np.mean([pair for rl in each for pair in kl_needed(rl)], 0).tolist()
        for name, each in result["rl"].items()
    }
    texts = [f"{name} {of_rl:.1f} and {of_best:.1f} nats" for name, (of_rl, of_best) in needed.items()]
    return all(of_rl > of_best for of_rl, of_best in needed.values()), ", ".join(texts)


def kl_needed(rl: Result) -> list[tuple[float, float]]:
    """(RL's KL, best of n's) where each first reaches a tenth, two tenths, ... of the highest reward both reach.

    At the highest alone best of n is at its peak, where it spends KL for nothing; below d = 1 neither form is a fit.
    """
    bon, gold = rl["bon"]["gold"], rl["gold"]
    highest, spent = min(max(bon), max(gold)), [kl_of_best(n) for n in COUNTS]
    levels = [highest * ((i + 1) / LEVELS) for i in range(LEVELS)]
    return [(first_reaches(rl["kl"], gold, level), first_reaches(spent, bon, level)) for level in levels]


def draw(cfg: Overoptimization, results: list[Result], figure: Any) -> None:
    """The true reward over d, means over seeds: best of n by proxy and pairs, and RL with its fit."""
    left, right = figure.subplots(1, 2)
    distance = np.array(results[0]["distance"])
    for name in PROXIES:
        colour = left._get_lines.get_next_color()
        for pairs, style in zip((PAIRS[0], PAIRS[-1]), (":", "-"), strict=True):
            curves = [one["bon"][name][str(pairs)]["gold"] for one in results]
            left.plot(distance, np.mean(curves, 0), style, color=colour, label=name if style == "-" else None)
        runs = [(i, rl) for one in results for i, rl in enumerate(one["rl"][name])]
        for k, (i, rl) in enumerate(runs):
            if not i:  # the points of one reward model a seed, the fits of all
                right.plot(rl["distance"], rl["gold"], "o", color=colour, markersize=2, alpha=0.5)
            d = np.linspace(1, max(1.0, *rl["distance"]), 30)  # the fit is of d > 1
            fitted = d * (rl["a"] - rl["b"] * np.log(d))
            right.plot(d, fitted, color=colour, linewidth=1, label=None if k else name)
    left.plot(
        distance,
        np.mean([one["gold"]["gold"] for one in results], 0),
        "--",
        color="grey",
        label="true reward",
    )
    left.set(title=f"Best of n; dotted {PAIRS[0]:,} pairs, solid {PAIRS[-1]:,}", xlabel="d = √KL")
    left.set_ylabel("true reward, standard deviations")
    right.set(title=f"RL, {RL_PAIRS:,} pairs, and d(a - b log d)", xlabel="d = √KL")
    left.legend(loc="upper left")
    right.legend(loc="lower left")


def main(cfg: Overoptimization) -> None:
    """Trains policy and proxies, optimises the proxies both ways, and fits the forms."""
    from jaxtrain.apps.papers import trials

    trials.run(PAPER, cfg, measure, judge, draw)


if __name__ == "__main__":
    flags.launch(Overoptimization, main, "./launch/run papers.overoptimization")
