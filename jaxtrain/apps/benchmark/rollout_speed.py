"""Rollouts whose completions have lengths of a heavy tail: tokens/s by continuous batching against fixed batches."""

import time
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxtrain import config
from jaxtrain.generate import batch_sampler, continuous_sampler, sampler
from jaxtrain.generate.batch_sampler import SampledIds, SampleRequest
from jaxtrain.generate.engine import CHUNK, build_engine
from jaxtrain.models.zoo import Arch
from jaxtrain.stages.load_model import build_model
from jaxtrain.train.parallel import Plan

ITERATION = 8  # completions of a rollout by row
SCALE, TAIL = 1 / 16, 1.5  # lengths are SCALE · --seq_len's completion · (1 + Pareto of this exponent)


class RolloutTimes(NamedTuple):
    """Seconds of each rollout, and what it sampled."""

    continuous: list[float]
    fixed: list[float]
    tokens: int  # of the completions of one rollout
    mean_length: float
    longest: int


def lengths(count: int, most: int, seed: int) -> np.ndarray:
    """i32[count]: lengths of completions, 1 to `most`, few of which are long."""
    tail = np.random.default_rng(seed).pareto(TAIL, count)
    return np.clip(np.ceil(SCALE * most * (1 + tail)), 1, most).astype(np.int32)


def measure(
    plan: Plan, arch: Arch, settings: config.Model, *, rows: int, length: int, seed: int, repeats: int,
    chunk: int = CHUNK,
) -> RolloutTimes:  # fmt: skip
    """Times of rollouts of ITERATION · rows completions, `rows` at a time, by both samplers in turn.

    A fifth of `length` tokens is prompt at most. Raises Failure where the two sample different tokens.
    """
    prompt, new = max(1, length // 5), length - max(1, length // 5)
    model = build_model(plan, arch, settings)
    params = plan.init(lambda: model.init(jax.random.key(seed)), model.axes)
    rng, count = np.random.default_rng(seed), ITERATION * rows
    limits = lengths(count, new, seed)
    requests = [
        SampleRequest(
            rng.integers(0, arch.vocab, rng.integers(1, prompt + 1)).tolist(), [sampler.completion_seed(seed, i, 0)],
            limit=int(limit),
        )
        for i, limit in enumerate(limits)
    ]  # fmt: skip
    fixed = build_engine(plan, model, ends=(), max_new=new)
    continuous = build_engine(
        plan, model, ends=(), max_new=new, slots=continuous_sampler.cache_slots(prompt, new), max_steps=chunk
    )
    ready = {id(one): one.ready(params, ()) for one in (fixed, continuous)}

    def by_fixed() -> list[SampledIds]:
        return batch_sampler.sample(fixed, ready[id(fixed)], requests, context=length, size=rows)

    def by_continuous() -> list[SampledIds]:
        return continuous_sampler.sample(
            continuous, ready[id(continuous)], requests, context=length, rows=rows, chunk=chunk
        )

    one, other = by_fixed(), by_continuous()  # compiles, too
    _require_same(one, other)
    times: dict[str, list[float]] = {"fixed": [], "continuous": []}
    for _ in range(repeats):
        for name, run in (("continuous", by_continuous), ("fixed", by_fixed)):
            before = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - before)
    sizes = [len(each.ids) for each in one]
    return RolloutTimes(times["continuous"], times["fixed"], sum(sizes), float(np.mean(sizes)), max(sizes))


def _require_same(one: list[SampledIds], other: list[SampledIds]) -> None:
    """Raises Failure unless both samplers gave each completion its length, and nearly all of them the same tokens.

    Programs of other shapes round otherwise, which now and then decides between two tokens.
    """
    pairs = list(zip(one, other, strict=True))
    if any(len(a.ids) != len(b.ids) for a, b in pairs):
        raise config.Failure("the two samplers gave a completion different lengths")
    same = np.mean([a.ids == b.ids for a, b in pairs])
    if same < 0.9:
        raise config.Failure(f"the two samplers gave the same tokens in {same:.0%} of the completions alone")


def numbers(times: RolloutTimes) -> dict[str, Any]:
    """The measurement by name: medians."""
    continuous, fixed = np.median(times.continuous), np.median(times.fixed)
    return {
        "tokens_per_s": times.tokens / continuous,
        "fixed_tokens_per_s": times.tokens / fixed,
        "speedup": fixed / continuous,
        "mean_length": times.mean_length,
        "longest": times.longest,
    }
