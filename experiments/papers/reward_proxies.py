"""Reward models on the words of reviews, linear or a small network: proxies of the true reward, in this process."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from experiments.papers import review_models

WORDS = len(review_models.WORDS)
FEATURES = WORDS - 1  # counts of all words but the two marks, and of sentences
STEPS, BATCH, LR, DECAY = 1_500, 128, 3e-3, 1e-2
SHARPNESS = 2.0  # of an annotator: log-odds a standard deviation of the true reward
LINEAR = 0  # hidden units of a proxy that is linear in its features


class PairData(NamedTuple):
    """Comparisons: features f32[P, F] of two reviews each, and whether the first won, bool[P]."""

    first: np.ndarray
    second: np.ndarray
    won: np.ndarray


def features(tokens: np.ndarray) -> np.ndarray:
    """f32[B, F] of reviews i32[B, LENGTH]: how often each word stands there, and the number of sentences."""
    inside = np.arange(tokens.shape[-1]) < review_models.lengths_of(tokens)[:, None]
    rows = np.broadcast_to(np.arange(len(tokens))[:, None], tokens.shape)
    counts = np.bincount((rows * WORDS + tokens)[inside], minlength=len(tokens) * WORDS)
    counts = counts.reshape(-1, WORDS)
    sentences = counts[:, list(review_models.NOUN_IDS)].sum(1, keepdims=True)
    return np.concatenate([counts[:, 2:], sentences], 1).astype(np.float32)


def compare(tokens: np.ndarray, gold: np.ndarray, pairs: int, seed: int, flipped: float = 0.0) -> PairData:
    """Comparisons of the first 2 · `pairs` reviews by a Bradley-Terry annotator, a share of the labels flipped."""
    if 2 * pairs > len(tokens):
        raise ValueError(f"{pairs} pairs need {2 * pairs} reviews, and there are {len(tokens)}")
    rng = np.random.default_rng(seed)
    reward = gold[: 2 * pairs].reshape(-1, 2) / gold.std()
    log_odds = SHARPNESS * (reward[:, 0] - reward[:, 1])
    won = rng.random(pairs) < 1 / (1 + np.exp(-log_odds))
    seen = features(tokens[: 2 * pairs])
    return PairData(seen[::2], seen[1::2], won ^ (rng.random(pairs) < flipped))


def train(data: list[PairData], hidden: int, seeds: list[int]) -> Callable[[np.ndarray], np.ndarray]:
    """Trains a proxy on each of the data sets, all at once: a function features f32[B, F] -> scores f64[proxies, B].

    `hidden` ReLU units, LINEAR: none. Seeds decide initial parameters and the order of the pairs, and nothing else.
    """
    import jax
    import jax.numpy as jnp
    import optax

    def init(key: Any) -> Any:
        one, two = jax.random.split(key)
        if hidden == LINEAR:
            return {"weight": jnp.zeros(FEATURES)}
        return {
            "in": jax.random.normal(one, (FEATURES, hidden)) * FEATURES**-0.5,
            "bias": jnp.zeros(hidden),
            "out": jax.random.normal(two, (hidden,)) * hidden**-0.5,
        }

    def score(params: Any, x: Any) -> Any:
        if hidden == LINEAR:
            return x @ params["weight"]
        return jax.nn.relu(x @ params["in"] + params["bias"]) @ params["out"]

    tx = optax.adamw(LR, weight_decay=DECAY)

    def one(seed: Any, first: Any, second: Any, sign: Any, count: Any) -> Any:
        begin, order = jax.random.split(jax.random.key(seed))
        params = init(begin)

        def loss(params: Any, i: Any) -> Any:
            gap = score(params, first[i]) - score(params, second[i])
            return -jax.nn.log_sigmoid(sign[i] * gap).mean()

        def step(carry: Any, key: Any) -> Any:
            params, state = carry
            i = jax.random.randint(key, (BATCH,), 0, count)
            updates, state = tx.update(jax.grad(loss)(params, i), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), jax.random.split(order, STEPS))[0][0]

    most = max(len(part.won) for part in data)

    def stacked(arrays: list[np.ndarray]) -> np.ndarray:
        return np.stack([np.pad(x, [(0, most - len(x))] + [(0, 0)] * (x.ndim - 1)) for x in arrays])

    params = jax.jit(jax.vmap(one))(
        np.array(seeds, np.uint32),
        stacked([part.first for part in data]),
        stacked([part.second for part in data]),
        stacked([np.where(part.won, 1.0, -1.0).astype(np.float32) for part in data]),
        np.array([len(part.won) for part in data]),
    )
    several = jax.jit(jax.vmap(score, (0, None)))
    return lambda x: np.asarray(several(params, np.asarray(x, np.float32)), np.float64)


def as_reward(
    proxy: Callable[[np.ndarray], np.ndarray], seen: np.ndarray, which: int = 0
) -> Callable[[np.ndarray], np.ndarray]:
    """A proxy as a reward of reviews i32[B, LENGTH], in standard deviations of its scores of `seen` features.

    What is no review has the least of those scores, as a response that fails a filter has a fixed price (Ziegler et
    al., arXiv:1909.08593).
    """
    scores = proxy(seen)[which]
    middle, spread = scores.mean(), scores.std()
    lowest = (scores.min() - middle) / spread

    def reward(tokens: np.ndarray) -> np.ndarray:
        valid = np.array([review_models.remarks_of(row) is not None for row in tokens.tolist()])
        return np.where(valid, (proxy(features(tokens))[which] - middle) / spread, lowest)

    return reward


def accuracy(scores: np.ndarray, gold: np.ndarray, seed: int, pairs: int = 20_000) -> float:
    """The share of random pairs that scores f64[B] order as the true reward does; a tie counts a half."""
    rng = np.random.default_rng(seed)
    i, j = rng.integers(len(gold), size=(2, pairs))
    differ = gold[i] != gold[j]
    sign = np.sign(scores[i] - scores[j]) * np.sign(gold[i] - gold[j])
    return float((0.5 + 0.5 * sign)[differ].mean())
