"""Completions of any number of prompts from one engine, in batches of few shapes, so that few programs are compiled."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxtrain.config import ConfigError
from jaxtrain.files import progress
from jaxtrain.generate import engine as engine_module
from jaxtrain.generate import sampler
from jaxtrain.generate.engine import Engine
from jaxtrain.types import Params

AT_ONCE = 128  # completions of one call, unless one prompt has more


class SampleRequest(NamedTuple):
    """A prompt, and how its completions are sampled."""

    ids: Sequence[int]
    seeds: Sequence[int]  # u32, one a completion; all requests of a call have as many
    limit: int = sampler.NO_LIMIT  # most tokens of a completion
    sampling_params: Mapping[
        str, float
    ] = {}  # of ops/sampling.py's HOW; all requests of a call name the same
    stops: Sequence[str] = ()  # texts before which a completion ends, for those who decode it


class SampledIds(NamedTuple):
    ids: list[int]
    logps: np.ndarray  # f32[n], under the distribution that they were sampled from


def sample(
    engine: Engine, params: Params, requests: Sequence[SampleRequest], *, context: int, size: int
) -> list[SampledIds]:
    """The completions of requests, those of a prompt together, `size` prompts a call; params are what `ready` gave.

    A completion has at most its request's limit, the engine's max_new, and what its prompt leaves of `context` (0: no
    bound). Raises ConfigError where a prompt leaves no room.
    """
    batch, done = prefill_batch(engine, requests, context), []
    size += (
        -size % engine.plan.shards
    )  # which are more than the model's where a context axis decodes further rows
    for first in range(0, len(requests), size):
        progress.stop_point(f"sampling, prompt {first} of {len(requests)}")
        rows = engine_module.complete(engine, params, local_rows(engine, batch, first, size))
        done += [
            SampledIds(tokens[:n].tolist(), logps[:n])
            for tokens, logps, n in zip(rows.tokens, rows.logps, rows.lengths, strict=True)
        ]
    return done[: sum(len(request.seeds) for request in requests)]


def stream(
    engine: Engine,
    params: Params,
    request: SampleRequest,
    *,
    context: int,
    decode: Callable[[list[int]], str],
    chunk: int,
) -> Iterator[list[int]]:
    """The new tokens of one completion, `chunk` at a time, up to the token that completes one of its stops."""
    batch = local_rows(
        engine, prefill_batch(engine, [request], context), 0, padded_rows(1, engine.plan.shards)
    )
    chunks = engine_module.stream(engine, params, batch, chunk=chunk, stops=request.stops, decode=decode)
    return (new[0] for new in chunks)


def padded_rows(prompts: int, shards: int) -> int:
    """The rows of one call with so many prompts: a power of two, and a multiple of the shards."""
    return -(-(1 << (prompts - 1).bit_length()) // shards) * shards


def prompts_per_call(prompts: int, samples: int, shards: int) -> int:
    """The rows of each of the calls, of about AT_ONCE completions, that so many prompts take.

    They are even, and rounded up by an eighth at most, so that other numbers of prompts seldom need another program.
    """
    even = -(-prompts // -(-prompts * samples // AT_ONCE))
    step = max(1, 2 ** (even - 1).bit_length() // 8)
    return -(-(-(-even // step) * step) // shards) * shards


def token_limits(engine: Engine, requests: Sequence[SampleRequest], context: int) -> np.ndarray:
    """i32[R]: the most tokens of each request's completions. Raises ConfigError where a prompt leaves no room."""
    return limits_of(requests, engine.max_new, context)


def limits_of(requests: Sequence[SampleRequest], max_new: int, context: int) -> np.ndarray:
    """The same for any sampler of `max_new` tokens at most."""
    limits = np.minimum([request.limit for request in requests], max_new)
    lengths = np.array([len(request.ids) for request in requests])
    room = context - lengths if context else limits.clip(1)
    if len(full := np.flatnonzero(room < 1)):
        raise ConfigError(
            f"prompt {full[0]} has {lengths[full[0]]} tokens, which leaves no room for a completion in the "
            f"model's context of {context}: leave it out, or take a model with a longer context"
        )
    return np.minimum(limits, room).astype(np.int32)


def prefill_batch(engine: Engine, requests: Sequence[SampleRequest], context: int) -> dict[str, np.ndarray]:
    """Requests as a prefill batch."""
    batch = sampler.prompt_batch([request.ids for request in requests], 0)
    columns = sampler.sampling_columns(len(requests), requests[0].sampling_params)
    sampler.set_params(columns, [request.sampling_params for request in requests])
    return (
        batch
        | columns
        | {
            "seed": np.array([request.seeds for request in requests], np.uint32),
            "limit": token_limits(engine, requests, context),
        }
    )


def local_rows(
    engine: Engine, batch: Mapping[str, np.ndarray], first: int, size: int
) -> dict[str, np.ndarray]:
    """This host's rows of the call that begins at row `first`, filled up to `size` with empty ones."""
    local = engine.plan.local_rows(size)
    rows = sampler.pad_rows({name: x[first : first + size] for name, x in batch.items()}, size)
    return {name: x[local] for name, x in rows.items()}
