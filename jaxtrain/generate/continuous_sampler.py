"""Completions of any number of prompts by continuous batching: a row whose completion has ended takes the next prompt.

Fixed batches (generate/batch_sampler.py) go on until their longest completion has ended, with rows that are done.
"""

import itertools
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from jaxtrain.files import progress
from jaxtrain.generate import batch_sampler, continuous_batching, sampler
from jaxtrain.generate.batch_sampler import SampledIds, SampleRequest
from jaxtrain.generate.continuous_batching import DecodeRequest
from jaxtrain.generate.engine import CHUNK, Engine, parts_at_once
from jaxtrain.types import Params


def cache_slots(longest: int, max_new: int) -> int:
    """The slots of a KV cache for prompts of at most `longest` tokens, which prefill fills up to a bucket."""
    return sampler.bucketed(longest) + max_new


def sample(
    engine: Engine,
    params: Params,
    requests: Sequence[SampleRequest],
    *,
    context: int,
    rows: int,
    chunk: int = CHUNK,
) -> list[SampledIds]:
    """What batch_sampler.sample gives, `rows` completions at a time, from an engine with a fixed number of slots.

    Prompts of one length bucket are taken one after the other, so that those of a prefill are alike. A request's
    sampling parameters must be the same for all. Raises ConfigError where a prompt leaves no room in the context, and
    ValueError where continuous_batching.completion_parts does.
    """
    limits = batch_sampler.token_limits(engine, requests, context)
    stopped, count = threading.Event(), itertools.count(1)
    wanted = [
        DecodeRequest(
            request.ids, int(seed), int(limit), request.sampling_params, is_cancelled=stopped.is_set
        )
        for request, limit in zip(requests, limits, strict=True)
        for seed in request.seeds
    ]
    order = sorted(range(len(wanted)), key=lambda i: sampler.bucketed(len(wanted[i].ids)))
    done: list[SampledIds | None] = [None] * len(wanted)
    rows += -rows % engine.plan.shards
    parts = parts_at_once(engine, params, rows)

    def run(mine: Sequence[int]) -> None:
        for one in continuous_batching.completions(
            engine,
            params,
            (wanted[i] for i in itertools.takewhile(lambda _: not stopped.is_set(), mine)),
            rows=rows // parts,
            defaults=requests[0].sampling_params,
            chunk=chunk,
        ):
            done[mine[one.number]] = SampledIds(one.tokens, np.array(one.logps, np.float32))
            progress.stop_point(f"sampling, completion {next(count)} of {len(wanted)}")

    def run_beside(mine: Sequence[int]) -> None:
        with progress.in_background():
            run(mine)

    first, *others = (order[i::parts] for i in range(parts))
    with ThreadPoolExecutor(parts) as pool:
        beside = [pool.submit(run_beside, mine) for mine in others]
        try:
            run(first)
        except BaseException:
            stopped.set()  # the others cancel what is under way, and take no further requests
            raise
        for one in beside:
            one.result()
    return done
