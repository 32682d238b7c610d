"""A run's model compiled for sampling: prompts with their sampling parameters in, completions as text out."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from jaxtrain.data.chat import Template
from jaxtrain.generate import batch_sampler, stop_strings
from jaxtrain.generate.batch_sampler import SampleRequest
from jaxtrain.generate.engine import build_engine
from jaxtrain.train import parallel
from jaxtrain.types import LM, Params

CHUNK = 4  # tokens between two parts of a streamed answer


class SampledText(NamedTuple):
    text: str
    ids: list[int]
    ended: bool  # by itself or at a stop, not by a limit
    logp: float  # of its tokens, nats, under the distribution that they were sampled from
    score: float | None = None


class TextSampler(NamedTuple):
    sample: Callable[[Sequence[SampleRequest]], list[SampledText]]  # completions, those of a prompt together
    stream: Callable[
        [SampleRequest], Iterator[list[int]]
    ]  # new tokens of a single completion, a few at a time


def text_sampler(
    plan: parallel.Plan,
    model: LM,
    params: Params,
    template: Template,
    ends: Sequence[int],
    max_new: int,
    context: int,
) -> TextSampler:
    """A sampler of completions to one of `ends` or at most `max_new` tokens; `context` 0: no bound.

    Prompts must leave room in the context.
    """
    decode = decoder(template, ends)
    engine = build_engine(plan, model, ends=ends, max_new=max_new)
    ready = functools.cache(lambda: engine.ready(params, ()))

    def sample(requests: Sequence[SampleRequest]) -> list[SampledText]:
        size = batch_sampler.padded_rows(len(requests), plan.shards)
        completions = batch_sampler.sample(engine, ready(), requests, context=context, size=size)
        per_completion = [request for request in requests for _ in request.seeds]
        return [text_of(*pair) for pair in zip(per_completion, completions, strict=True)]

    def text_of(request: SampleRequest, completion: batch_sampler.SampledIds) -> SampledText:
        until = stop_strings.tokens_until_stop(completion.ids, request.stops, decode)
        ids, text = completion.ids[:until], decode(completion.ids)
        return SampledText(
            text=text[: stop_strings.find_stop(text, request.stops)],
            ids=ids,
            ended=until is not None or (bool(ids) and ids[-1] in ends),
            logp=float(completion.logps[: len(ids)].sum()),
        )

    def stream(request: SampleRequest) -> Iterator[list[int]]:
        return batch_sampler.stream(engine, ready(), request, context=context, decode=decode, chunk=CHUNK)

    return TextSampler(sample, stream)


def decoder(template: Template, ends: Sequence[int]) -> Callable[[list[int]], str]:
    """A function that makes text of a completion's ids, without the `ends`, which may be ids that have a text.

    The white space that the chat template itself writes before an answer is not the answer's.
    """
    decode = without_ends(template.tokenizer.decode_completion, ends)
    return lambda ids: decode(ids).removeprefix(template.lead)


def without_ends(decode: Callable[[list[int]], str], ends: Sequence[int]) -> Callable[[list[int]], str]:
    """A tokenizer's decode that leaves the tokens out that end a completion."""
    return lambda ids: decode([i for i in ids if i not in ends])
