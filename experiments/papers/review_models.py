"""Small language models over the words of Tinytown's reviews, trained in this process: what experiments on them share.

A review is at most LENGTH tokens: of each sentence noun, adverb where there is one, adjective; then END.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtrain.worlds.tinytown import draws, reviews

WORDS = ("<s>", "</s>", *reviews.NOUNS, *filter(None, reviews.ADVERBS), *reviews.ADJECTIVES)
START, END = 0, 1
LENGTH = 3 * reviews.MAX_SENTENCES + 1
INVALID = -3.0  # what a text that is no review is worth, as reviews.review_gold has it
_IDS = {word: i for i, word in enumerate(WORDS)}
NOUN_IDS = range(2, 2 + len(reviews.NOUNS))
_ADJECTIVE = range(len(WORDS) - len(reviews.ADJECTIVES), len(WORDS))
_ADVERB = range(NOUN_IDS.stop, _ADJECTIVE.start)


class LmSize(NamedTuple):
    """A language model's shape, its type of computation, and its training on reviews."""

    layers: int
    width: int
    heads: int
    ff: int
    dtype: str = "float32"
    lr: float = 1e-2
    steps: int = 400
    batch: int = 64


class Policy(NamedTuple):
    """A language model, and its parameters after training on reviews."""

    model: Any  # types.LM
    params: Any


def progress(seed: int, text: str) -> None:
    """Prints where a seed is, as jaxtrain.apps.papers.trials prints that it has ended."""
    print(f"seed {seed}  {text}", flush=True)


def encode(text: str) -> list[int]:
    """The tokens of a review, END at its end."""
    remarks = reviews.parse_review(text)
    if remarks is None:
        raise ValueError(f"not a review: {text!r}")
    words = [word for one in remarks for word in (one.noun, one.adverb, one.adjective) if word]
    return [*(_IDS[word] for word in words), END]


def remarks_of(tokens: Sequence[int]) -> list[reviews.Remark] | None:
    """The sentences of tokens up to END; None where they are no whole review of one sentence or more."""
    found: list[reviews.Remark] = []
    noun, adverb = "", ""
    for token in tokens:
        if token == END:
            return found if found and not noun else None
        if token in NOUN_IDS and not noun:
            noun = WORDS[token]
        elif token in _ADVERB and noun and not adverb:
            adverb = WORDS[token]
        elif token in _ADJECTIVE and noun:
            found.append(reviews.Remark(noun, adverb, WORDS[token]))
            noun = adverb = ""
        else:
            return None
    return None


def scores(tokens: np.ndarray, score: Callable[[str], float] = reviews.review_gold) -> np.ndarray:
    """f64[B]: the score of each row of tokens i32[B, N] as text; INVALID where it is no review."""
    every = [remarks_of(row) for row in np.asarray(tokens).tolist()]
    return np.array([INVALID if one is None else score(reviews.render_review(one)) for one in every])


def text_of(tokens: Sequence[int]) -> str:
    """The text of any tokens up to END, whole sentences or not."""
    words = []
    for token in tokens:
        if token == END:
            break
        word = WORDS[token]
        words.append(f"The {word} was" if token in NOUN_IDS else word + "." * (token in _ADJECTIVE))
    return " ".join(words)


def positivity(tokens: np.ndarray) -> np.ndarray:
    """f64[B]: the probability σ(sentiment) that each row of i32[B, N] is positive.

    As a classifier of sentiment it takes any text, one cut off or broken included; what is no sentence counts nothing.
    """
    sentiments = [reviews.sentiment(text_of(row)) for row in np.asarray(tokens).tolist()]
    return 1 / (1 + np.exp(-np.array(sentiments)))


def corpus(seed: int, name: str, count: int) -> np.ndarray:
    """i32[count, LENGTH]: reviews of the world as tokens, 0 after END; `name` and seed choose which."""
    key = draws.stream(seed, "papers", name)
    return padded([encode(reviews.draw_review(one)) for one in draws.draws(key, 0, count)])


def padded(rows: Iterable[Sequence[int]]) -> np.ndarray:
    """i32[rows, LENGTH]: token lists, 0 after their ends."""
    every = [*rows]
    out = np.zeros((len(every), LENGTH), np.int32)
    for i, row in enumerate(every):
        out[i, : len(row)] = row
    return out


def lengths_of(tokens: np.ndarray) -> np.ndarray:
    """i32[...]: tokens of each row [..., N], END included; all of them where none is END."""
    ends = tokens == END
    return np.where(ends.any(-1), ends.argmax(-1) + 1, tokens.shape[-1]).astype(np.int32)


def batch_of(tokens: np.ndarray, prompt_lengths: np.ndarray | int = 0) -> dict[str, np.ndarray]:
    """The columns of next-token training of reviews i32[..., LENGTH], mask 1 on what follows the prompt."""
    lengths = lengths_of(tokens)[..., None]
    place = np.broadcast_to(np.arange(tokens.shape[-1], dtype=np.int32), tokens.shape)
    inside = place < lengths
    start = np.full((*tokens.shape[:-1], 1), START, np.int32)
    mask = inside & (place >= np.asarray(prompt_lengths)[..., None])
    return {
        "tokens": np.concatenate([start, tokens[..., :-1]], -1),
        "targets": tokens,
        "mask": mask.astype(np.float32),
        "segments": inside.astype(np.int32),
        "positions": place,
        "length": lengths[..., 0],
        "bytes": mask.sum(-1).astype(np.float32),
    }


def build(size: LmSize) -> Any:
    """The language model, a types.LM over WORDS."""
    import jax

    from jaxtrain import config
    from jaxtrain.models import transformer
    from jaxtrain.models.zoo import Arch

    arch = Arch(size.layers, size.width, size.heads, size.ff, vocab=len(WORDS), init_std=size.width**-0.5 / 2)
    settings = config.Model(dtype=size.dtype)
    return transformer.build(arch, transformer.execution(settings, jax.default_backend()))


def fit(
    params: Any,
    objective: Any,
    batches: Iterable[Mapping[str, np.ndarray]],
    tx: Any,
    *,
    observe: Callable[[int, Any], None] | None = None,
) -> Any:
    """The parameters after a step of the objective on each batch; `observe(step, params)` is called after each."""
    import jax

    from jaxtrain.train.step import init_state, train_step

    state = init_state(params, tx, jax.random.key(0))
    step = jax.jit(functools.partial(train_step, objective=objective, tx=tx))
    for i, batch in enumerate(batches, 1):
        state, _ = step(state, (), batch)
        if observe is not None:
            observe(i, state.params)
    return state.params


def shuffled(columns: Mapping[str, np.ndarray], batch: int, steps: int, seed: int) -> Any:
    """`steps` batches of rows of the columns, in a new order each epoch."""
    rng = np.random.default_rng(seed)
    rows = len(next(iter(columns.values())))
    order = np.concatenate([rng.permutation(rows) for _ in range(-(-steps * batch // rows))])
    for i in range(steps):
        part = order[i * batch : (i + 1) * batch]
        yield {name: x[part] for name, x in columns.items()}


def trained(size: LmSize, seed: int) -> Policy:
    """A language model trained on reviews: the policy that all begins with."""
    import jax
    import optax

    from jaxtrain.objectives.next_token import next_token

    model = build(size)
    rows = batch_of(corpus(seed, "sft", size.steps * size.batch))
    tx = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_decay_schedule(size.lr, size.steps))
    )
    objective = functools.partial(next_token, model=model)
    params = fit(
        jax.jit(model.init)(jax.random.key(seed)), objective, shuffled(rows, size.batch, size.steps, seed), tx
    )
    return Policy(model, params)


def sampler(model: Any) -> Callable[..., np.ndarray]:
    """A function (params, prompts, seed, temperature=1) -> i32[B, LENGTH], a completion of each prompt, with it.

    prompts: (tokens i32[B, P], lengths i32[B]) without START. A completion ends with END, or at LENGTH tokens.
    """
    import jax

    from jaxtrain.generate import sampler as generation

    @jax.jit
    def run(params: Any, batch: Mapping[str, Any]) -> Any:
        params = model.ready(params)
        state = generation.prefill(model, params, batch, ends=(END,), max_new=LENGTH)
        return generation.decode(model, params, state, LENGTH, ends=(END,)).completions.tokens

    def sample(
        params: Any, prompts: tuple[np.ndarray, np.ndarray], seed: int, temperature: float = 1.0
    ) -> np.ndarray:
        tokens, lengths = prompts
        B = len(tokens)
        batch = {
            "prompt": np.concatenate([np.full((B, 1), START, np.int32), tokens], 1),
            "length": lengths + 1,
            "limit": (LENGTH - lengths).astype(np.int32),
            "seed": generation.prompt_seeds(seed, B, 1)[:, 0],
            "temperature": np.full(B, temperature, np.float32),
        }
        new = np.asarray(run(params, batch))
        place = np.arange(LENGTH)[None] - lengths[:, None]
        out = np.where(place >= 0, np.take_along_axis(new, np.maximum(place, 0), 1), 0)
        out[:, : tokens.shape[1]] += np.where(np.arange(tokens.shape[1]) < lengths[:, None], tokens, 0)
        return out.astype(np.int32)

    return sample


def empty_prompts(count: int) -> tuple[np.ndarray, np.ndarray]:
    """`count` prompts without tokens: a sample is a whole review."""
    return np.zeros((count, 0), np.int32), np.zeros(count, np.int32)


def divergence(model: Any) -> Callable[[Any, Any, Mapping[str, np.ndarray]], Any]:
    """A jitted function (params, reference, batch) -> f32[B], KL(policy ‖ reference) of the policy's own completions.

    Over each completion's tokens the KL of the whole next-token distributions is summed, whose mean over completions is
    the sequences' KL, with less variance than the mean of log-ratios.
    """
    import jax

    from jaxtrain.ops.logprobs import logits

    @jax.jit
    def of(params: Any, reference: Any, batch: Mapping[str, Any]) -> Any:
        ours, theirs = (
            jax.nn.log_softmax(logits(model.hidden(p, batch), model.head(p))) for p in (params, reference)
        )
        by_token = (jax.numpy.exp(ours) * (ours - theirs)).sum(-1)
        return jax.numpy.where(batch["mask"] > 0, by_token, 0.0).sum(-1)

    return of


def many(
    sample: Callable[..., np.ndarray], params: Any, count: int, seed: int, at_once: int = 2_048
) -> np.ndarray:
    """i32[count, LENGTH]: whole reviews of a model, sampled `at_once` at a time."""
    parts = [sample(params, empty_prompts(at_once), seed + 10_007 * i) for i in range(-(-count // at_once))]
    return np.concatenate(parts)[:count]


def rloo(
    policy: Policy,
    sample: Callable[..., np.ndarray],
    reward: Callable[[np.ndarray], np.ndarray],
    watched: Callable[[np.ndarray], np.ndarray],
    *,
    batch: int,
    lr: float,
    iterations: int,
    kl_end: float,
    seed: int,
    every: int = 5,
    measured: int = 512,
) -> dict[str, list[float]]:
    """REINFORCE with a leave-one-out baseline (arXiv:2402.14740), without KL penalty, until KL is kl_end.

    Returns by iteration, `every` apart, of `measured` further reviews the means of KL to the first policy, `gold` (what
    is watched) and `proxy` (the reward).
    """
    import jax
    import optax

    from jaxtrain.objectives.policy_gradient import policy_gradient
    from jaxtrain.ops.policy_gradient import PolicyGradientSettings
    from jaxtrain.ops.returns import group_advantages
    from jaxtrain.train.step import init_state, train_step

    settings = PolicyGradientSettings(
        surrogate="none", clip_low=0.2, entropy=False, aggregate="fixed", limit=LENGTH
    )
    objective = functools.partial(policy_gradient, model=policy.model, settings=settings)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(lr))
    state = init_state(policy.params, tx, jax.random.key(seed))
    step = jax.jit(functools.partial(train_step, objective=objective, tx=tx))
    advantages = jax.jit(functools.partial(group_advantages, group=batch, baseline="others", scale="std"))
    distance, logps = divergence(policy.model), token_logps(policy.model)
    log: dict[str, list[float]] = {"iteration": [], "kl": [], "gold": [], "proxy": []}
    for i in range(iterations + 1):
        if i % every == 0:
            tokens = sample(state.params, empty_prompts(measured), 2 + seed + 100_003 * i)
            kl = float(np.mean(distance(state.params, policy.params, batch_of(tokens))))
            values = (i, kl, float(watched(tokens).mean()), float(reward(tokens).mean()))
            for series, value in zip(log.values(), values, strict=True):
                series.append(value)
            if kl >= kl_end:
                break
        tokens = sample(state.params, empty_prompts(batch), 1 + seed + 100_003 * i)
        rows = batch_of(tokens)
        each, _ = advantages(reward(tokens).astype(np.float32))
        rows["advantages"] = rows["mask"] * np.asarray(each)[:, None]
        rows["old_logps"] = logps(state.params, rows)
        state, _ = step(state, (), rows)
    return log


def token_logps(model: Any) -> Callable[[Any, Mapping[str, np.ndarray]], Any]:
    """A jitted function (params, batch) -> f32[B, T], the log-probability of each target."""
    import jax

    from jaxtrain.ops.logprobs import token_stats

    return jax.jit(
        lambda params, batch: token_stats(model.hidden(params, batch), model.head(params), batch["targets"])[
            "logps"
        ]
    )
