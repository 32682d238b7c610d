"""A sampler compiled for a plan: completions of a batch, whole or as they are drawn."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtrain.generate import sampler, stop_strings
from jaxtrain.generate.sampler import Completions, DecodeState, TopLogprobs
from jaxtrain.types import LM, Batch, Params

CHUNK = 16  # tokens drawn between two looks of the host


class DecodeProgress(NamedTuple):
    """What the host sees of rows."""

    told: Completions
    done: np.ndarray  # bool[B]
    tops: TopLogprobs | None = None


class Engine(NamedTuple):
    """Compiled for a plan, whose `put` takes the batches."""

    plan: Any
    width: int  # most tokens of a completion
    ready: Callable[[Params, Params], Params]  # (trained, base) -> parameters laid out for what follows
    start: Callable[[Params, Batch], DecodeState]
    advance: Callable[..., DecodeState]  # (ready, rows, steps, stopped bool[B] or None) -> rows
    replace: Callable[
        [Params, DecodeState, Batch], DecodeState
    ]  # prefill of a batch with `slot` i32[R], put into rows

    def see(self, rows: DecodeState) -> DecodeProgress:
        """Brings what rows have told to the host."""
        return self.plan.fetch(DecodeProgress(rows.told, rows.done, rows.tops))


def engine(
    plan: Any,
    model: LM,
    *,
    end: int,
    width: int,
    slots: int = 0,
    tops: int = 0,
    most: int = 0,
    whole: Callable[[Params, Params], Params] = lambda params, base: params,
) -> Engine:
    """Prefill and decode as two programs for each shape of a batch; rows stay on their devices between calls, donated.

    `slots` is what the cache holds, by default the prompt's bucket and `width`. `tops` are the likeliest tokens of each
    place that rows have with their log-probabilities, where the batch's column `tops` bool[B] asks for them. `most` is
    the most tokens between two looks of the host, by default `width`: a small one makes short advances fast.
    """

    def begin(params: Params, rows: Any, _: Any, batch: Batch) -> DecodeState:
        kept = (tops, most + 1 if most else width)  # prefill's token and those of an advance
        return sampler.prefill(model, params, batch, end=end, width=width, slots=slots, tops=kept)

    def more(params: Params, rows: DecodeState, steps: Any, batch: Batch) -> DecodeState:
        rows = rows._replace(done=rows.done | batch["stopped"]) if batch else rows
        return sampler.decode(model, params, rows, steps, end=end, most=most)

    def swap(params: Params, rows: DecodeState, _: Any, batch: Batch) -> DecodeState:
        return sampler.insert(rows, begin(params, (), (), batch), batch["slot"])

    begun, advanced, swapped = (plan.carry(f) for f in (begin, more, swap))

    def advance(
        params: Params, rows: DecodeState, steps: int, stopped: np.ndarray | None = None
    ) -> DecodeState:
        batch = {} if stopped is None else plan.put({"stopped": stopped})
        return advanced(params, rows, np.int32(steps), batch)

    return Engine(
        plan,
        width,
        plan.ready(lambda params, base: model.ready(whole(params, base))),
        lambda params, batch: begun(params, (), (), batch),
        advance,
        lambda params, rows, batch: swapped(params, rows, (), batch),
    )


def complete(made: Engine, params: Params, batch: Mapping[str, np.ndarray]) -> Completions:
    """The completions of this host's rows of a batch, of all hosts' rows; params are what `ready` gave."""
    rows = made.start(params, made.plan.put(batch))
    if made.width > 1:
        rows = made.advance(params, rows, made.width - 1)
    return made.see(rows).told


def stream(
    made: Engine,
    params: Params,
    batch: Mapping[str, np.ndarray],
    *,
    chunk: int = CHUNK,
    ends: Sequence[str] = (),
    decode: Callable[[list[int]], str] = str,
) -> Iterator[list[list[int]]]:
    """The new tokens of each row, the first after prefill, then as often as `chunk` are drawn, until all rows are done.

    A row in whose text, as `decode` makes it, one of `ends` stands is done: it ends with the token that completes it.
    Put together they are what `complete` gives, up to there.
    """
    rows = made.start(params, made.plan.put(batch))
    B = len(batch["seed"].reshape(-1))
    given, cut = [[] for _ in range(B)], np.zeros(B, bool)
    while True:
        now = made.see(rows)
        new = []
        for i, (tokens, n) in enumerate(zip(now.told.tokens, now.told.lengths, strict=True)):
            fresh = [] if cut[i] else tokens[len(given[i]) : n].tolist()
            if fresh and (at := stop_strings.upto([*given[i], *fresh], ends, decode)) is not None:
                fresh, cut[i] = fresh[: at - len(given[i])], True
            given[i] += fresh
            new.append(fresh)
        yield new
        if (now.done | cut).all():
            return
        rows = made.advance(params, rows, chunk, cut if ends else None)
