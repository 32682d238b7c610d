"""A sampler compiled for a plan: completions of a batch, whole or streamed."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxtrain.generate import sampler, stop_strings
from jaxtrain.generate.sampler import Completions, DecodeState, TopLogprobs
from jaxtrain.train.parallel import Plan
from jaxtrain.types import LM, Batch, Params

CHUNK = 16  # tokens decoded between two looks of the host
# Bytes of parameters up to which a CPU samples both halves of its rows at once. Products of few rows keep little more
# than one core busy; each half reads all parameters, so that large ones, which no cache holds, gain nothing.
HALVED = 2**25


class DecodeProgress(NamedTuple):
    """What the host needs of a decode state."""

    completions: Completions
    done: np.ndarray  # bool[B]
    top_logprobs: TopLogprobs | None = None


class Engine(NamedTuple):
    """Prefill and decode compiled for a plan, whose `put` takes the batches."""

    plan: Plan  # the one to decode with, whose shards may be other than the model's
    max_new: int  # most tokens of a completion
    ready: Callable[[Params, Params], Params]  # (trained, base) -> parameters laid out for what follows
    prefill: Callable[[Params, Batch], DecodeState]
    decode: Callable[..., DecodeState]  # (ready, state, steps, stopped bool[B] or None) -> state
    insert: Callable[
        [Params, DecodeState, Batch], DecodeState
    ]  # prefills a batch into its column `slot` i32[R]
    programs: tuple[Callable, Callable]  # prefill and decode as Plan.carry made them

    def put(self, batch: Mapping[str, np.ndarray]) -> Batch:
        """A batch of which every host has all rows, on the devices."""
        return self.plan.put({name: x[self.plan.local_rows(len(x))] for name, x in batch.items()})

    def fetch(self, state: DecodeState) -> DecodeProgress:
        """The progress of a decode state, on the host."""
        return self.plan.fetch(DecodeProgress(state.completions, state.done, state.top_logprobs))


def build_engine(
    plan: Plan,
    model: LM,
    *,
    ends: Sequence[int],
    max_new: int,
    slots: int = 0,
    top_logprobs: int = 0,
    max_steps: int = 0,
    whole: Callable[[Params, Params], Params] = lambda params, base: params,
) -> Engine:
    """An engine: two programs for each shape of a batch; the state stays on its devices between calls, donated.

    Each of the tokens `ends` ends a completion. `slots` is the size of the KV cache, by default the prompt's bucket and
    `max_new`. `top_logprobs` is the number of likeliest tokens at each place whose log-probabilities are there for rows
    that the batch's column `top_logprobs` bool[B] says so of. `max_steps` is the most tokens between two looks of the
    host, by default `max_new`: a small one makes short decodes fast. `whole` makes a model's parameters of what is
    trained and the base.
    """
    plan = plan.decoding(lambda: model.ready(model.init(jax.random.key(0))))
    top = (top_logprobs, max_steps + 1 if max_steps else max_new)  # prefill's token and those of a decode

    def prefill(params: Params, state: Any, _: Any, batch: Batch) -> DecodeState:
        return sampler.prefill(
            model, params, batch, ends=ends, max_new=max_new, slots=slots, top_logprobs=top
        )

    def decode(params: Params, state: DecodeState, steps: Any, batch: Batch) -> DecodeState:
        state = state._replace(done=state.done | batch["stopped"]) if batch else state
        return sampler.decode(model, params, state, steps, ends=ends, max_steps=max_steps)

    def insert(params: Params, state: DecodeState, _: Any, batch: Batch) -> DecodeState:
        return sampler.insert(state, prefill(params, (), (), batch), batch["slot"])

    prefilled, decoded, inserted = (plan.carry(f) for f in (prefill, decode, insert))

    def run_decode(
        params: Params, state: DecodeState, steps: int, stopped: np.ndarray | None = None
    ) -> DecodeState:
        batch = {} if stopped is None else plan.put({"stopped": stopped})
        return decoded(params, state, np.int32(steps), batch)

    return Engine(
        plan=plan,
        max_new=max_new,
        ready=plan.ready(lambda params, base: model.ready(whole(params, base))),
        prefill=lambda params, batch: prefilled(params, (), (), batch),
        decode=run_decode,
        insert=lambda params, state, batch: inserted(params, state, (), batch),
        programs=(prefilled, decoded),
    )


def parts_at_once(engine: Engine, params: Params, rows: int) -> int:
    """In how many equal parts so many rows are sampled fastest, each in a thread: jax runs what one calls in order.

    Two on a CPU, where the parameters have at most HALVED bytes and the rows are even, else one.
    """
    one_cpu = engine.plan.platform == "cpu" and len(engine.plan.devices) == 1
    small = one_cpu and sum(x.nbytes for x in jax.tree.leaves(params)) <= HALVED
    return 2 if small and rows % 2 == 0 else 1


def complete(engine: Engine, params: Params, batch: Mapping[str, np.ndarray]) -> Completions:
    """The completions of this host's rows of a batch, of all hosts' rows; params are what `ready` gave."""
    whole = functools.partial(_complete, engine, params)
    rows = len(batch["prompt"])
    count = parts_at_once(engine, params, rows)
    if count == 1:
        return whole(batch)
    parts = (slice(i * rows // count, (i + 1) * rows // count) for i in range(count))
    with ThreadPoolExecutor(count) as pool:
        done = pool.map(whole, [{name: x[part] for name, x in batch.items()} for part in parts])
        return Completions(*map(np.concatenate, zip(*done, strict=True)))


def _complete(engine: Engine, params: Params, batch: Mapping[str, np.ndarray]) -> Completions:
    state = engine.prefill(params, engine.plan.put(batch))
    if engine.max_new > 1:
        state = engine.decode(params, state, engine.max_new - 1)
    return engine.fetch(state).completions


def stream(
    engine: Engine,
    params: Params,
    batch: Mapping[str, np.ndarray],
    *,
    chunk: int = CHUNK,
    stops: Sequence[str] = (),
    decode: Callable[[list[int]], str] = str,
) -> Iterator[list[list[int]]]:
    """The new tokens of each row, the first after prefill, then after each `chunk` tokens, until all rows are done.

    A row whose text, as `decode` makes it, has one of `stops` in it is done: it ends with the token that completes the
    stop. Put together they are what `complete` gives, up to there.
    """
    state = engine.prefill(params, engine.plan.put(batch))
    B = len(batch["seed"].reshape(-1))
    sent, stopped = [[] for _ in range(B)], np.zeros(B, bool)
    while True:
        progress = engine.fetch(state)
        completions, chunks = progress.completions, []
        for i, (tokens, n) in enumerate(zip(completions.tokens, completions.lengths, strict=True)):
            new = [] if stopped[i] else tokens[len(sent[i]) : n].tolist()
            if new and (until := stop_strings.tokens_until_stop([*sent[i], *new], stops, decode)) is not None:
                new, stopped[i] = new[: until - len(sent[i])], True
            sent[i] += new
            chunks.append(new)
        yield chunks
        if (progress.done | stopped).all():
            return
        state = engine.decode(params, state, chunk, stopped if stops else None)
