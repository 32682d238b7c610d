"""A run's model compiled for drawing: prompts with their settings in, completions as text out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxtrain.data.chat import Template
from jaxtrain.generate import engine, sampler, stop_strings
from jaxtrain.train import parallel
from jaxtrain.types import LM, Params

CHUNK = 4  # tokens drawn between two looks at a streamed answer


class SampleRequest(NamedTuple):
    """A prompt, and how its completions are drawn."""

    ids: np.ndarray  # i32[n]
    seeds: Sequence[int]  # u32, one a completion
    limit: int  # most tokens of one
    how: Mapping[str, float]  # columns of ops/sampling.py's HOW; all prompts of a call name the same
    ends: Sequence[str] = ()  # texts before which one ends


class SampledText(NamedTuple):
    text: str
    ids: list[int]
    ended: bool  # by itself or at one of its texts, not by a limit
    logp: float  # of its tokens, nats, under the distribution that they were drawn from
    score: float | None = None


class TextSampler(NamedTuple):
    draw: Callable[
        [Sequence[SampleRequest]], list[SampledText]
    ]  # those of a prompt together; each has as many seeds
    stream: Callable[
        [SampleRequest], Iterator[list[int]]
    ]  # new tokens of a single completion, a few at a time


def text_sampler(
    plan: parallel.Plan, model: LM, params: Params, template: Template, width: int, context: int
) -> TextSampler:
    """Completions of at most `width` tokens, of prompts that leave room in the context; context 0: no bound."""
    decode = decoder(template)
    made = engine.engine(plan, model, end=template.end, width=width)
    ready = made.ready(params, ())

    def draw(wanted: Sequence[SampleRequest]) -> list[SampledText]:
        told = engine.complete(made, ready, _batch(plan, wanted, width, context))
        found, rows = [], [one for one in wanted for _ in one.seeds]
        for one, tokens, logps, n in zip(rows, told.tokens, told.logps, told.lengths, strict=False):
            ids = tokens[:n].tolist()
            whole = stop_strings.upto(ids, one.ends, decode)
            ids, text = ids[:whole], decode(ids)
            ended = whole is not None or ids[-1:] == [template.end]
            found.append(
                SampledText(
                    text[: stop_strings.first(text, one.ends)], ids, ended, float(logps[: len(ids)].sum())
                )
            )
        return found

    def stream(one: SampleRequest) -> Iterator[list[int]]:
        batch = _batch(plan, [one], width, context)
        return (
            new[0] for new in engine.stream(made, ready, batch, chunk=CHUNK, ends=one.ends, decode=decode)
        )

    return TextSampler(draw, stream)


def _batch(
    plan: parallel.Plan, wanted: Sequence[SampleRequest], width: int, context: int
) -> dict[str, np.ndarray]:
    """This host's rows of a batch for the sampler, filled up so that few shapes are compiled."""
    size = -(-(1 << (len(wanted) - 1).bit_length()) // plan.shards) * plan.shards
    batch = sampler.prompts([one.ids for one in wanted], 0)
    limits = np.minimum([one.limit for one in wanted], width)
    batch |= {
        "seed": np.array([one.seeds for one in wanted], np.uint32),
        "limit": np.minimum(limits, context - batch["length"] if context else limits).astype(np.int32),
    }
    # What is added is of length 0, which the sampler leaves empty.
    batch = {name: np.pad(x, [(0, size - len(x))] + [(0, 0)] * (x.ndim - 1)) for name, x in batch.items()}
    columns = sampler.columns(size, wanted[0].how)
    for i, one in enumerate(wanted):
        for name, value in one.how.items():
            columns[name][i] = value
    here = plan.local_slice(size)
    return {name: x[here] for name, x in (batch | columns).items()}


def decoder(template: Template) -> Callable[[list[int]], str]:
    """Token ids as text; the white space that a chat template begins an answer with is not the answer's."""
    decode = template.tokenizer.decode
    return decode if template.name == "none" else lambda ids: decode(ids).lstrip()
