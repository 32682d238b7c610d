"""Samples while a run trains: completions of token prompts, and the files under samples/."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxtrain.data.tokenizer import Tokenizer
from jaxtrain.files import terminal
from jaxtrain.generate import batch_sampler, sampler
from jaxtrain.generate.batch_sampler import SampleRequest
from jaxtrain.generate.engine import build_engine
from jaxtrain.stages import init_from
from jaxtrain.stages.session import Session, gather_rows
from jaxtrain.train import loop, optim, parallel
from jaxtrain.types import Params, TrainState

PROMPTS, LONGEST = 8, 24  # prompts that pretraining samples from, and most tokens of one


class SampledTokens(NamedTuple):
    ids: list[int]  # the token that ended it included
    ended: bool  # by itself, not by the limit
    logps: np.ndarray | None = None  # f32[n], of `ids` when they were sampled, where the sampler has them

    @property
    def text_ids(self) -> list[int]:
        """The ids without the token that ended it, which may be one that the tokenizer decodes."""
        return self.ids[:-1] if self.ended else self.ids


def pretraining_prompts(plan: parallel.Plan, batch: Mapping[str, np.ndarray]) -> list[list[int]]:
    """Prompts: the first half, at most LONGEST tokens, of the first document of each row, the same on all hosts."""
    all_rows = gather_rows(plan, {name: batch[name] for name in ("tokens", "segments")})
    sizes = (all_rows["segments"] == 1).sum(-1)
    cut = [
        row[: min(LONGEST, (n + 1) // 2)].tolist()
        for row, n in zip(all_rows["tokens"], sizes, strict=True)
        if n
    ]
    return cut[:PROMPTS]


class TokenSampler(Protocol):
    """(what is trained, the base, prompts, seed) -> `samples` completions of each prompt, those of a prompt together.

    A completion depends on its prompt, the seed and its place in the list alone.
    """

    def __call__(
        self, params: Params, base: Params, prompts: list[list[int]], seed: int
    ) -> list[SampledTokens]: ...


def token_sampler(
    session: Session, ends: Sequence[int], *, max_new: int, temperature: float = 1.0, samples: int = 1,
    requests: Callable[..., Any] | None = None,
) -> TokenSampler:  # fmt: skip
    """A function that samples completions of token prompts, to one of `ends` or as --max_new and the context allow."""
    sampling_params = sampler.active_params({"temperature": temperature})
    start = (requests or request_sampler)(session, ends, max_new=max_new)

    def sample(params: Params, base: Params, prompts: list[list[int]], seed: int) -> list[SampledTokens]:
        seeds = sampler.prompt_seeds(seed, len(prompts), samples)
        wanted = [
            SampleRequest(ids, own, sampling_params=sampling_params)
            for ids, own in zip(prompts, seeds, strict=True)
        ]
        size = batch_sampler.prompts_per_call(len(prompts), samples, session.plan.shards)
        return start(params, base)(wanted, size)

    return sample


def request_sampler(
    session: Session, ends: Sequence[int], *, max_new: int
) -> Callable[[Params, Params], Callable[[Sequence[SampleRequest], int], list[SampledTokens]]]:
    """A function (what is trained, the base) -> a function (requests, prompts a call) that samples completions."""
    engine = build_engine(
        session.plan, session.model, ends=ends, max_new=max_new, whole=session.trained.whole
    )

    def start(params: Params, base: Params) -> Callable[[Sequence[SampleRequest], int], list[SampledTokens]]:
        ready = engine.ready(params, base)

        def sample(requests: Sequence[SampleRequest], size: int) -> list[SampledTokens]:
            completions = batch_sampler.sample(
                engine, ready, requests, context=session.arch.max_len, size=size
            )
            return [SampledTokens(one.ids, one.ids[-1] in ends, one.logps) for one in completions]

        return sample

    return start


def continuations(
    session: Session, tokenizer: Tokenizer, prompts: list[list[int]], max_new: int, seed: int
) -> loop.Sample:
    """Samples that continue token prompts, written to samples/STEP.txt and returned as text."""
    sample_tokens = token_sampler(
        session, init_from.end_ids(session.start, (tokenizer.eos,)), max_new=max_new
    )

    def sample(state: TrainState, step: int) -> tuple[str, Mapping[str, float]]:
        lines = [f"samples at step {step}: prompt▸continuation, ⏎ where it ended by itself"]
        completions = sample_tokens(
            optim.eval_params(state.params, state.opt_state), session.base, prompts, seed
        )
        for prompt, new in zip(prompts, completions, strict=True):
            lines += [
                "",
                *preview_lines(
                    f"{tokenizer.decode(prompt)}▸{tokenizer.decode_completion(new.text_ids)}", new.ended
                ),
            ]
        text = "\n".join(lines) + "\n"
        write_sample(session, f"{step:08d}.txt", text)
        return text, {}

    return sample


def preview_lines(text: str, ended: bool) -> list[str]:
    """A prompt and what follows, as lines that fit a terminal."""
    return terminal.wrapped(f"{text}{terminal.END if ended else ' …'}", "  │ ")


def write_sample(session: Session, name: str, text: str) -> None:
    """Writes a text into the run's samples/."""
    if session.primary:
        file = session.path / "samples" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
