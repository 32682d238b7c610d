"""A run's model compiled for sampling: prompts with their sampling parameters in, completions as text out."""

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
    plan: parallel.Plan, model: LM, params: Params, template: Template, max_new: int, context: int
) -> TextSampler:
    """A sampler of completions of at most `max_new` tokens, of prompts that leave room in the context; 0: no bound."""
    decode = decoder(template)
    engine = build_engine(plan, model, end=template.end, max_new=max_new)
    ready = engine.ready(params, ())

    def sample(requests: Sequence[SampleRequest]) -> list[SampledText]:
        size = batch_sampler.padded_rows(len(requests), plan.shards)
        completions = batch_sampler.sample(engine, ready, requests, context=context, size=size)
        per_completion = [request for request in requests for _ in request.seeds]
        return [text_of(*pair) for pair in zip(per_completion, completions, strict=True)]

    def text_of(request: SampleRequest, completion: batch_sampler.SampledIds) -> SampledText:
        until = stop_strings.tokens_until_stop(completion.ids, request.stops, decode)
        ids, text = completion.ids[:until], decode(completion.ids)
        return SampledText(
            text=text[: stop_strings.find_stop(text, request.stops)],
            ids=ids,
            ended=until is not None or ids[-1:] == [template.end],
            logp=float(completion.logps[: len(ids)].sum()),
        )

    def stream(request: SampleRequest) -> Iterator[list[int]]:
        return batch_sampler.stream(engine, ready, request, context=context, decode=decode, chunk=CHUNK)

    return TextSampler(sample, stream)


def decoder(template: Template) -> Callable[[list[int]], str]:
    """Token ids as text; the white space that a chat template begins an answer with is not the answer's."""
    decode = template.tokenizer.decode
    return decode if template.name == "none" else lambda ids: decode(ids).lstrip()
