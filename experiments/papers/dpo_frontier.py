"""The frontier of reward and KL of DPO, IPO, unlikelihood, Preferred-FT, PPO, and PPO on the true reward.

Looked at on seed 3, which is not reported: DPO is above PPO up to about 2 nats and around 8 to 9, PPO by .01 to .03
between and beyond, at DPO's learning rates of 5e-4 and 1e-3. Where every text that is no whole review had reward 0, a
DPO policy at 10 nats had .3, its valid texts .96.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.papers import review_models, review_preferences
from experiments.papers.review_models import LmSize
from experiments.papers.review_preferences import RewardModelSettings
from jaxtrain import config, flags
from jaxtrain.apps.papers.config import PaperTrial
from jaxtrain.apps.papers.verdicts import Check, Paper, Result, by_seed

PAPER = Paper(
    name="dpo_frontier",
    title="Reward against KL of DPO and PPO",
    source="Rafailov et al. 2023, arXiv:2305.18290",
    figure="figure 2, left",
    claim="At equal KL from the reference, DPO's policies have a higher reward than PPO's, even where PPO has the true "
    "reward.",
    published="IMDb: 26 of 27, 28 of 29 and 34 of 35 evaluations of PPO and PPO-GT are beaten on both axes by a point "
    "of DPO (a third party's reading of the figure)",
    measured="Reviews whose reward is the probability σ(sentiment) that they are positive, of any text as a classifier "
    "has it; a language model of 25k parameters continues the first 2 to 8 tokens. 4 continuations of each of 512 "
    "prompts, labelled by that reward, are the comparisons of DPO, IPO, unlikelihood and Preferred-FT, and of PPO's "
    "reward model, which has the policy's shape. Reward and KL of 2,048 completions of 128 held-out prompts as "
    "training goes on. PPO, reward and sizes were set on seed 3 after a first run of seeds 0 to 2.",
    criterion="At 80 % or more of ten KLs up to the largest that both reach, DPO's upper envelope is at least PPO's; "
    "every evaluation of Preferred-FT is below DPO's at its KL. Labels and sequences through the model are "
    "as many for both.",
    sizes=("cpu", "gpu"),
)
GRIDS = ("small", "full")
POINTS, SHARE = 10, 0.8
MOST_KL = 20.0  # nats; what lies beyond has left the language
APART = 0.05  # nats from the reference, below which an evaluation is the first policy's


class FrontierSize(NamedTuple):
    """The policy, the learning rates of training on comparisons and of PPO, and the reward model's training."""

    lm: LmSize
    lr: float
    ppo_lr: float
    rm: RewardModelSettings = RewardModelSettings()


SIZES = {
    "cpu": FrontierSize(LmSize(2, 32, 4, 64), 5e-4, 1e-3),
    # 25M parameters: 12 runs of 67k sequences through the model are 5e15 FLOPs; decoding takes most of the time.
    "gpu": FrontierSize(
        LmSize(8, 512, 8, 1_408, "bfloat16", lr=1e-3, steps=800, batch=256),
        1e-4,
        1e-4,
        RewardModelSettings(lr=1e-4),
    ),
}


@dataclasses.dataclass(frozen=True)
class FrontierFlags(config.Group):
    # fmt: off
    grid: str = config.arg("small", "Runs of each method: small, 12 in all, or full, the paper's 22", choices=GRIDS)
    prompts: int = config.arg(512, "Prompts of the comparisons; each has 6", low=8)
    held_out: int = config.arg(128, "Prompts of the evaluation", low=4)
    samples: int = config.arg(16, "Completions of each of them", low=1)
    steps: int = config.arg(480, "Updates on 64 comparisons; PPO, its reward model among it, has as many sequences",
        low=20)
    every: int = config.arg(40, "Updates between evaluations", low=1)
    # fmt: on


@dataclasses.dataclass(frozen=True)
class DpoFrontier:
    trial: PaperTrial = config.group(PaperTrial)
    frontier: FrontierFlags = config.group(FrontierFlags)


class FrontierRun(NamedTuple):
    """A run: its method, and the setting that the runs of a method differ in."""

    method: str
    value: float


DPO, IPO, UNLIKELIHOOD, PREFERRED, PPO, PPO_GT = "DPO", "IPO", "Unlikelihood", "Preferred-FT", "PPO", "PPO-GT"
METHODS = (DPO, IPO, UNLIKELIHOOD, PREFERRED, PPO, PPO_GT)
BATCH = 64  # comparisons of an update
PPO_BATCH = 128  # completions of an iteration of PPO
PPO_PASSES = (
    6  # of each of PPO's completions: sampled, read by policy, reference and reward model, two epochs
)
RUNS = {
    "small": {DPO: (0.05, 0.1, 1, 5), IPO: (0.1,), UNLIKELIHOOD: (0.5,), PREFERRED: (0,), PPO: (3, 6, 12),
              PPO_GT: (6, 12)},
    "full": {DPO: (0.05, 0.1, 1, 5), IPO: (0.05, 0.1, 1), UNLIKELIHOOD: (0.05, 0.1, 0.5, 1), PREFERRED: (0, 1, 2),
             PPO: (3, 6, 9, 12), PPO_GT: (3, 6, 9, 12)},
}  # fmt: skip


class TrainingData(NamedTuple):
    """What every run of a seed has: the first policy, its prompts and comparisons, and PPO's rewards."""

    policy: review_models.Policy
    sample: Any
    prompts: review_preferences.Prompts
    rows: Mapping[str, np.ndarray]  # the comparisons as columns
    rewards: Mapping[
        str, review_preferences.Reward
    ]  # of PPO and of PPO-GT, with standard deviation 1 at first


def measure(cfg: DpoFrontier, runs: Any) -> Result:
    """{"points": METHOD -> [{"value", "step", "reward", "kl"}], "forwards": METHOD -> sequences through the policy}."""
    options, size = cfg.frontier, SIZES[cfg.trial.size]
    data, pairs = training_data(size, options, runs.seed)
    held_out, _ = review_preferences.prompts(runs.seed, "frontier held out", options.held_out)
    evaluate = review_preferences.evaluation(
        data.policy,
        data.sample,
        review_preferences.repeated(held_out, options.samples),
        review_models.positivity,
        runs.seed + 1,
    )
    pair_forwards = options.steps * 2 * BATCH + 2 * pairs
    reward_forwards = size.rm.epochs * 2 * pairs
    iterations = max(1, round((pair_forwards - reward_forwards) / (PPO_PASSES * PPO_BATCH)))
    points: dict[str, list[dict[str, float]]] = {method: [] for method in METHODS}
    for method, values in RUNS[options.grid].items():
        for value in values:

            def observe(step: int, params: Any, method: str = method, value: float = value) -> None:
                # An iteration of PPO has six times the sequences of an update, and its reward model has its own.
                gap = options.every if method not in (PPO, PPO_GT) else max(1, options.every // 10)
                if step % gap == 0:
                    points[method].append({"value": value, "step": step, **evaluate(params)})

            train(FrontierRun(method, value), data, size, options, iterations, runs.seed, observe)
            last = points[method][-1] if points[method] else {"reward": math.nan, "kl": math.nan}
            review_models.progress(
                runs.seed, f"{method} {value}: reward {last['reward']:.3f}, KL {last['kl']:.1f} nats"
            )
    ppo_forwards = iterations * PPO_BATCH * PPO_PASSES
    forwards = dict.fromkeys(METHODS, pair_forwards)
    forwards |= {PPO: ppo_forwards + reward_forwards, PPO_GT: ppo_forwards}
    return {"points": points, "forwards": forwards, "labels": pairs, "first": evaluate(data.policy.params)}


def training_data(size: FrontierSize, options: FrontierFlags, seed: int) -> tuple[TrainingData, int]:
    """(the first policy, the comparisons and a reward model of them, the number of comparisons)."""
    policy = review_models.trained(size.lm, seed)
    review_models.progress(seed, "first policy trained")
    sample = review_models.sampler(policy.model)
    some, _ = review_preferences.prompts(seed, "frontier", options.prompts)
    pairs, seen = review_preferences.labelled(policy, sample, some, review_models.positivity, seed)
    learnt = review_preferences.reward_model(policy, pairs, seen, size.rm, seed)
    spread = float(review_models.positivity(seen).std())
    rewards = {PPO: learnt, PPO_GT: lambda tokens: review_models.positivity(tokens) / spread}
    review_models.progress(seed, f"{len(pairs.prompt):,} comparisons, reward model trained")
    rows = review_preferences.columns(policy, pairs)
    return TrainingData(policy, sample, some, rows, rewards), len(pairs.prompt)


def train(
    run: FrontierRun, data: TrainingData, size: FrontierSize, options: FrontierFlags, iterations: int, seed: int,
    observe: Any,
) -> None:  # fmt: skip
    """One run; `observe(step, params)` is called after each update, or iteration of PPO."""
    from experiments.dpo import DpoLoss

    policy = data.policy
    if run.method in (PPO, PPO_GT):
        settings = review_preferences.PpoSettings(
            target_kl=run.value, iterations=iterations, batch=PPO_BATCH, lr=size.ppo_lr
        )
        reward = data.rewards[run.method]
        review_preferences.ppo(policy, data.sample, data.prompts, reward, settings, seed, observe)
        return
    objective = {
        DPO: lambda: review_preferences.preference_objective(policy, DpoLoss(beta=run.value)),
        IPO: lambda: review_preferences.preference_objective(
            policy, DpoLoss(loss="ipo", summed=True, beta=run.value)
        ),
        UNLIKELIHOOD: lambda: functools.partial(unlikelihood, model=policy.model, alpha=run.value),
        PREFERRED: lambda: functools.partial(unlikelihood, model=policy.model, alpha=0.0),
    }[run.method]()
    other_seed = seed + 1_000 * int(run.value) if run.method == PREFERRED else seed
    review_preferences.fit_preferences(
        policy,
        data.rows,
        objective,
        lr=size.lr,
        batch=BATCH,
        steps=options.steps,
        seed=other_seed,
        observe=observe,
    )


def unlikelihood(params: Any, frozen: Any, batch: Any, rng: Any, *, model: Any, alpha: float) -> Any:
    """Σ over pairs of −log π(y_w|x) + α log π(y_l|x): the unlikelihood baseline; with α = 0 Preferred-FT.

    Section 6 of arXiv:2305.18290.
    """
    import jax.numpy as jnp

    from jaxtrain.ops.logprobs import completion_logps
    from jaxtrain.types import Loss

    own = {name: x for name, x in batch.items() if not name.startswith("kl/")}
    logps, _ = completion_logps(model, params, own)
    total, pairs = (alpha * logps[:, 1] - logps[:, 0]).sum(), jnp.asarray(logps.shape[0], jnp.float32)
    return Loss(total, pairs, {"loss": (total, pairs)})


def envelope(points: Sequence[Mapping[str, float]], kl: float) -> float:
    """The upper envelope of evaluations at a KL: the best of those within it and of the lines between two around it.

    A mixture of two policies has a reward on their line, and at most that KL.
    """
    within = [one for one in points if one["kl"] <= kl]
    best = max((one["reward"] for one in within), default=-math.inf)
    for after in (one for one in points if one["kl"] > kl):
        for before in within:
            share = (kl - before["kl"]) / (after["kl"] - before["kl"])
            best = max(best, before["reward"] + share * (after["reward"] - before["reward"]))
    return best


def grid(result: Result) -> list[float]:
    """The ten KLs at which DPO and PPO are compared."""
    most = min(MOST_KL, *(max(one["kl"] for one in result["points"][method]) for method in (DPO, PPO)))
    return [most * (i + 1) / POINTS for i in range(POINTS)]


def dominated(result: Result) -> float:
    """The share of the grid at which DPO's envelope is at least PPO's."""
    dpo, ppo = ([result["first"], *result["points"][method]] for method in (DPO, PPO))
    return sum(envelope(dpo, kl) >= envelope(ppo, kl) for kl in grid(result)) / POINTS


def inside(result: Result) -> tuple[bool, str]:
    """Whether every evaluation of Preferred-FT that has left the first policy is below DPO's envelope."""
    far = [one for one in result["points"][PREFERRED] if one["kl"] > APART]
    dpo = [result["first"], *result["points"][DPO]]
    below = sum(one["reward"] < envelope(dpo, one["kl"]) for one in far)
    return below == len(far) > 0, f"{below} of {len(far)}"


def judge(cfg: DpoFrontier, results: list[Result]) -> list[Check]:
    """DPO's envelope against PPO's and Preferred-FT's points, and what both were given."""
    return [
        by_seed(
            "DPO's envelope at least PPO's at 80 % of the KLs",
            results, lambda one: (dominated(one) >= SHARE, f"{dominated(one):.0%} up to {grid(one)[-1]:.1f} nats"),
        ),
        by_seed("Preferred-FT below DPO at its KL", results, inside),
        by_seed("as many sequences through the model, within a tenth", results, equal_budget),
    ]  # fmt: skip


def equal_budget(result: Result) -> tuple[bool, str]:
    """Whether DPO and PPO have as many sequences through the model; labels are the same comparisons."""
    dpo, ppo = result["forwards"][DPO], result["forwards"][PPO]
    return abs(dpo / ppo - 1) <= 0.1, f"{dpo:,} and {ppo:,}, {result['labels']:,} labels"


def draw(cfg: DpoFrontier, results: list[Result], figure: Any) -> None:
    """Reward over KL, a point for each evaluation."""
    axes = figure.subplots()
    for method, marker in zip(METHODS, "os^vD<", strict=True):
        points = [one for result in results for one in result["points"][method] if one["kl"] <= MOST_KL]
        axes.plot(
            [one["kl"] for one in points], [one["reward"] for one in points], marker, label=method,
            alpha=0.6, markersize=4,
        )  # fmt: skip
    axes.set(xlabel="KL(policy ‖ reference), nats a completion", ylabel="true reward, P(positive)")
    axes.set_title("Every evaluation of every run")
    figure.legend(loc="outside right upper")


def main(cfg: DpoFrontier) -> None:
    """Trains the runs of the grid and evaluates reward and KL as they go."""
    from jaxtrain.apps.papers import trials

    trials.run(PAPER, cfg, measure, judge, draw)


if __name__ == "__main__":
    flags.launch(DpoFrontier, main, "./launch/run papers.dpo_frontier")
