"""Comparisons of review continuations, and policies trained on them: by DPO's family, by PPO, and as plain text."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.papers import review_models
from experiments.papers.review_models import LENGTH, Policy

SHORTEST, LONGEST = 2, 8  # tokens of a prompt
Prompts = tuple[np.ndarray, np.ndarray]  # tokens i32[B, LONGEST], lengths i32[B]
Reward = Callable[[np.ndarray], np.ndarray]  # reviews i32[B, LENGTH] -> f64[B]


class ComparedReviews(NamedTuple):
    """P comparisons of two continuations of a prompt, chosen and rejected."""

    tokens: np.ndarray  # i32[P, 2, LENGTH], prompt and continuation
    prompt: np.ndarray  # i32[P], tokens of the prompt


class PpoSettings(NamedTuple):
    """PPO with an adaptive price of the KL (Ziegler et al., arXiv:1909.08593)."""

    target_kl: float = 6.0  # nats a completion
    iterations: int = 60
    batch: int = 128
    epochs: int = 2
    lr: float = 1e-3
    first_coef: float = 0.1  # in units of the reward's standard deviation

    def horizon(self) -> float:
        """Episodes: a 50th of all of them. A longer one, as that of runs of 1M episodes, never reaches the target."""
        return self.iterations * self.batch / 50


class RewardModelSettings(NamedTuple):
    """Training of a reward model on comparisons; the number of epochs is that of the best held-out accuracy."""

    lr: float = 3e-3
    epochs: int = 4
    batch: int = 64


def prompts(seed: int, name: str, count: int) -> tuple[Prompts, np.ndarray]:
    """The first 2 to 8 tokens of reviews, fewer than each has, and those reviews, i32[count, LENGTH]."""
    tokens = review_models.corpus(seed, name, count)
    lengths = np.random.default_rng(seed).integers(SHORTEST, LONGEST + 1, count)
    lengths = np.minimum(lengths, review_models.lengths_of(tokens) - 1).astype(np.int32)
    return (np.where(np.arange(LONGEST) < lengths[:, None], tokens[:, :LONGEST], 0), lengths), tokens


def repeated(some: Prompts, times: int) -> Prompts:
    """Each prompt `times` times, its copies together."""
    return np.repeat(some[0], times, 0), np.repeat(some[1], times, 0)


def compare(
    some: Prompts, completions: np.ndarray, wins: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> ComparedReviews:
    """All pairs of each prompt's completions i32[B, G, LENGTH]; `wins(first, second)`, places in them: bool[P].

    A pair of equal completions is none.
    """
    G = completions.shape[1]
    first, second = np.triu_indices(G, 1)
    at = np.arange(len(completions))[:, None] * G
    first, second = (at + first).reshape(-1), (at + second).reshape(-1)
    flat = completions.reshape(-1, LENGTH)
    differ = (flat[first] != flat[second]).any(1)
    first, second = first[differ], second[differ]
    won = wins(first, second)
    chosen, rejected = np.where(won, first, second), np.where(won, second, first)
    return ComparedReviews(np.stack([flat[chosen], flat[rejected]], 1), some[1][chosen // G])


def flipped(pairs: ComparedReviews, share: float, seed: int) -> ComparedReviews:
    """The comparisons with the labels of a share of them turned."""
    turn = np.random.default_rng(seed).random(len(pairs.prompt)) < share
    return pairs._replace(tokens=np.where(turn[:, None, None], pairs.tokens[:, ::-1], pairs.tokens))


def mismatched(pairs: ComparedReviews) -> np.ndarray:
    """i32[P, LENGTH]: each prompt with the chosen continuation of the next comparison, cut off at LENGTH."""
    rows = []
    for i, length in enumerate(pairs.prompt):
        j = (i + 1) % len(pairs.prompt)
        other = pairs.tokens[j, 0]
        end = review_models.lengths_of(other)
        rows.append([*pairs.tokens[i, 0, :length], *other[pairs.prompt[j] : end]][:LENGTH])
    return review_models.padded(rows)


def columns(policy: Policy, pairs: ComparedReviews) -> dict[str, np.ndarray]:
    """The batch columns of objectives.dpo.dpo for all comparisons, the reference's log-probabilities among them.

    `kl/NAME` are those of `mismatched`, which KTO's z₀ is measured on.
    """
    import jax

    from jaxtrain.ops.logprobs import completion_logps

    of = jax.jit(lambda params, batch: completion_logps(policy.model, params, batch)[0])

    def annotated(tokens: np.ndarray) -> dict[str, np.ndarray]:
        rows = review_models.batch_of(tokens, pairs.prompt[:, None])
        parts = [
            np.asarray(of(policy.params, {name: x[i : i + 512] for name, x in rows.items()}))
            for i in range(0, len(tokens), 512)
        ]
        return {**rows, "ref_logps": np.concatenate(parts)}

    others = annotated(mismatched(pairs)[:, None])
    return {**annotated(pairs.tokens), **{f"kl/{name}": x for name, x in others.items()}}


def preference_objective(policy: Policy, loss: Any, smoothing: float = 0.0) -> Any:
    """The objective for the flags `loss`, a DpoLoss, with label smoothing of its own.

    KTO (arXiv:2402.01306) takes chosen completions as desirable and rejected ones as not; its z₀ is measured within.
    """
    import jax
    import jax.numpy as jnp

    from jaxtrain.objectives.dpo import dpo, kto
    from jaxtrain.ops import preference
    from jaxtrain.ops.logprobs import completion_logps

    settings = loss.settings()
    if loss.link() != "kto":
        settings = settings._replace(label_smoothing=smoothing) if smoothing else settings
        return functools.partial(dpo, model=policy.model, loss=loss.link(), settings=settings)

    def unpaired(params: Any, frozen: Any, batch: Any, rng: Any) -> Any:
        others = {name.removeprefix("kl/"): x for name, x in batch.items() if name.startswith("kl/")}
        logps, lengths = completion_logps(policy.model, jax.lax.stop_gradient(params), others)
        shift = preference.kl_shift((logps - others["ref_logps"])[:, 0], lengths[:, 0])
        own = {name: x for name, x in batch.items() if not name.startswith("kl/")}
        rows = {name: jnp.concatenate([x[:, :1], x[:, 1:]]) for name, x in own.items()}
        size = len(logps)
        rows["label"] = jnp.repeat(jnp.array([1.0, 0.0]), size)
        rows["kl"] = jnp.broadcast_to(shift, (2 * size,))
        return kto(params, frozen, rows, rng, model=policy.model, settings=settings)

    return unpaired


def fit_preferences(
    policy: Policy,
    rows: Mapping[str, np.ndarray],
    objective: Any,
    *,
    lr: float,
    batch: int,
    steps: int,
    seed: int,
    observe: Callable[[int, Any], None] | None = None,
) -> Any:
    """The policy's parameters after `steps` updates of an objective on comparisons."""
    import optax

    schedule = optax.warmup_constant_schedule(0.0, lr, min(15, steps))
    tx = optax.chain(optax.clip_by_global_norm(10.0), optax.adamw(schedule, weight_decay=0.0))
    batches = review_models.shuffled(rows, batch, steps, seed)
    return review_models.fit(policy.params, objective, batches, tx, observe=observe)


def ppo(
    policy: Policy,
    sample: Callable[..., np.ndarray],
    some: Prompts,
    reward: Reward,
    settings: PpoSettings,
    seed: int,
    observe: Callable[[int, Any], None] | None = None,
) -> Any:
    """The policy's parameters after PPO with a value head of its own trunk, on prompts in order, over and over."""
    import jax
    import optax

    from jaxtrain.models import value
    from jaxtrain.objectives.ppo import ppo as objective
    from jaxtrain.ops.policy_gradient import PolicyGradientSettings
    from jaxtrain.ops.returns import adaptive_kl
    from jaxtrain.rl import advantages
    from jaxtrain.train.step import init_state, train_step

    critic = value.build(policy.model, shared=False)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(settings.lr))
    key = jax.random.key(seed)
    state = init_state(critic.grow(policy.params, key), tx, key)
    loss = functools.partial(objective, model=critic, settings=PolicyGradientSettings(entropy=False))
    step = jax.jit(functools.partial(train_step, objective=loss, tx=tx))
    annotate = jax.jit(advantages.annotate_logps(policy.model, critic, 1.0))
    gae = jax.jit(functools.partial(advantages.gae_advantages, how=advantages.AdvantageConfig()))
    coef, rng = settings.first_coef, np.random.default_rng(seed)
    half = settings.batch // 2
    for i in range(1, settings.iterations + 1):
        at = np.arange((i - 1) * settings.batch, i * settings.batch) % len(some[1])
        given = some[0][at], some[1][at]
        tokens = sample(state.params["policy"], given, 7 + seed + 100_003 * i)
        rows = review_models.batch_of(tokens, given[1])
        rows |= annotate(state.params, policy.params, rows)
        ended = (tokens == review_models.END).any(1)
        more, metrics = gae(rows, reward(tokens).astype(np.float32), ended, coef)
        rows |= more
        for _ in range(settings.epochs):
            order = rng.permutation(settings.batch)
            for part in (order[:half], order[half:]):
                state, _ = step(state, (), {name: np.asarray(x)[part] for name, x in rows.items()})
        kl = float(np.mean(metrics["objective/kl"]))
        coef = float(
            adaptive_kl(
                coef, kl, target=settings.target_kl, horizon=settings.horizon(), episodes=settings.batch
            )
        )
        if observe is not None:
            observe(i, state.params["policy"])
    return state.params["policy"]


def evaluation(
    policy: Policy, sample: Callable[..., np.ndarray], some: Prompts, reward: Reward, seed: int
) -> Callable[..., dict[str, float]]:
    """A function (params, temperature=1) -> {"reward", "kl"}: means over completions of the prompts.

    The KL, in nats a completion, is that at temperature 1.
    """
    distance = review_models.divergence(policy.model)

    def of(params: Any, temperature: float = 1.0) -> dict[str, float]:
        tokens = sample(params, some, seed, temperature)
        rows = review_models.batch_of(tokens, some[1])
        return {
            "reward": float(reward(tokens).mean()),
            "kl": float(np.mean(distance(params, policy.params, rows))),
        }

    return of


def win_rate(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The share of pairs in which ours is the higher; a tie counts a half."""
    return float(np.mean(0.5 + 0.5 * np.sign(np.asarray(ours) - np.asarray(theirs))))


def labelled(
    policy: Policy,
    sample: Callable[..., np.ndarray],
    some: Prompts,
    true: Reward,
    seed: int,
    *,
    sharpness: float = math.inf,
    samples: int = 4,
) -> tuple[ComparedReviews, np.ndarray]:
    """Comparisons of `samples` continuations of each prompt, labelled by the true reward; and those, i32[B, LENGTH].

    With a finite sharpness a Bradley-Terry annotator labels, `sharpness` log-odds a standard deviation of the reward.
    """
    tokens = sample(policy.params, repeated(some, samples), seed)
    gold, rng = true(tokens), np.random.default_rng(seed)

    def wins(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        gap = gold[first] - gold[second]
        log_odds = np.multiply(sharpness, gap / gold.std(), where=gap != 0, out=np.zeros(len(gap)))
        return rng.random(len(first)) < 1 / (1 + np.exp(-log_odds))

    return compare(some, tokens.reshape(-1, samples, LENGTH), wins), tokens


def reward_model(
    policy: Policy, pairs: ComparedReviews, seen: np.ndarray, settings: RewardModelSettings, seed: int
) -> Reward:
    """A reward model of the comparisons, on the policy's own trunk, with mean 0 and deviation 1 over `seen` reviews.

    It scores any text: it knows no more of what a review is than the comparisons say, as DPO does.
    """
    import jax
    import optax

    from jaxtrain.models import reward as reward_models
    from jaxtrain.objectives.reward import reward as objective

    scorer, count = reward_models.build(policy.model, members=1), len(pairs.prompt)
    rows = whole_batch(pairs.tokens) | {
        "prefer": np.tile(np.array([[0, 1], [0, 0]], np.float32), (count, 1, 1)),
        "margin": np.zeros(count, np.float32),
    }
    steps = max(1, round(settings.epochs * count / settings.batch))
    schedule = optax.cosine_decay_schedule(settings.lr, steps, 0.1)
    params = review_models.fit(
        scorer.grow(policy.params, jax.random.key(seed)),
        functools.partial(objective, scores=scorer.scores, loss="logistic", centering=0.0),
        review_models.shuffled(rows, settings.batch, steps, seed),
        optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.0)),
    )
    scores = jax.jit(scorer.scores)

    def score(tokens: np.ndarray) -> np.ndarray:
        return np.asarray(scores(params, whole_batch(tokens[:, None])), np.float64)[0, :, 0]

    first = score(seen)
    return lambda tokens: (score(tokens) - first.mean()) / first.std()


def whole_batch(tokens: np.ndarray) -> dict[str, np.ndarray]:
    """The columns that a reward model reads of reviews i32[..., LENGTH]: START and all tokens, END among them."""
    lengths = review_models.lengths_of(tokens) + 1
    start = np.full((*tokens.shape[:-1], 1), review_models.START, np.int32)
    place = np.broadcast_to(
        np.arange(tokens.shape[-1] + 1, dtype=np.int32), (*lengths.shape, tokens.shape[-1] + 1)
    )
    return {
        "tokens": np.concatenate([start, tokens], -1),
        "segments": (place < lengths[..., None]).astype(np.int32),
        "positions": place,
        "length": lengths,
    }
