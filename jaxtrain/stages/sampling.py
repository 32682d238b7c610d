"""What a run writes while it trains."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np

from jaxtrain.config import ConfigError
from jaxtrain.data.tokenizer import Tokenizer
from jaxtrain.files import terminal
from jaxtrain.generate import engine, sampler
from jaxtrain.stages.session import Session, gather_rows
from jaxtrain.train import loop, optim, parallel
from jaxtrain.types import Params, TrainState

PROMPTS, LONGEST = 8, 24  # prompts that pretraining samples from, and most tokens of one
AT_ONCE = 128  # completions drawn at once, unless one prompt has more


class SampledTokens(NamedTuple):
    ids: list[int]
    ended: bool  # by itself, not by the limit


def pretraining_prompts(plan: parallel.Plan, batch: Mapping[str, np.ndarray]) -> list[list[int]]:
    """Prompts: the first half, at most LONGEST tokens, of the first document of each row, the same on all hosts."""
    whole = gather_rows(plan, {name: batch[name] for name in ("tokens", "segments")})
    sizes = (whole["segments"] == 1).sum(-1)
    cut = [
        row[: min(LONGEST, (n + 1) // 2)].tolist() for row, n in zip(whole["tokens"], sizes, strict=True) if n
    ]
    return cut[:PROMPTS]


class TokenSampler(Protocol):
    """(what is trained, the base, prompts, seed) -> samples completions of each prompt, those of a prompt together.

    A completion depends on its prompt, the seed and its place in the list alone.
    """

    def __call__(
        self, params: Params, base: Params, prompts: list[list[int]], seed: int
    ) -> list[SampledTokens]: ...


def token_sampler(
    session: Session, end: int, *, max_new: int, temperature: float = 1.0, samples: int = 1
) -> TokenSampler:
    """A function that draws completions of token prompts, at most max_new tokens or what the context has room for."""
    how = sampler.active_params({"temperature": temperature})
    made = engine.build_engine(
        session.plan, session.model, end=end, width=max_new, whole=session.trained.whole
    )

    def drawn(params: Params, base: Params, prompts: list[list[int]], seed: int) -> list[SampledTokens]:
        size = _prompts_at_once(len(prompts), samples, session.plan.shards)
        here = session.plan.local_slice(size)
        batch = sampler.prompt_batch(prompts, seed, samples=samples)
        batch["limit"] = _room(session.arch.max_len, prompts, max_new)
        batch |= sampler.sampling_columns(len(prompts), how)
        ready, out = made.ready(params, base), []
        for first in range(0, len(prompts), size):
            part = {name: _filled(x[first : first + size], size)[here] for name, x in batch.items()}
            done = engine.complete(made, ready, part)
            out += [row[:n].tolist() for row, n in zip(done.tokens, done.lengths, strict=True)]
        return [SampledTokens(row, end in row) for row in out[: len(prompts) * samples]]

    return drawn


def _prompts_at_once(prompts: int, samples: int, shards: int) -> int:
    """Prompts of one call, so that calls with other numbers of them seldom need another program."""
    even = -(-prompts // -(-prompts * samples // AT_ONCE))
    step = max(1, 2 ** (even - 1).bit_length() // 8)
    return -(-(-(-even // step) * step) // shards) * shards


def _room(context: int, prompts: list[list[int]], max_new: int) -> np.ndarray:
    """i32[R], the tokens that each prompt's completions may have."""
    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    room = np.minimum(max_new, context - lengths if context else max_new).astype(np.int32)
    if len(full := np.flatnonzero(room < 1)):
        raise ConfigError(
            f"prompt {full[0]} has {lengths[full[0]]} tokens, which leaves no room for a completion in the "
            f"model's context of {context}: leave it out, or take a model with a longer context"
        )
    return np.broadcast_to(room, lengths.shape)


def _filled(x: np.ndarray, rows: int) -> np.ndarray:
    """`rows` rows: those beyond x's are of length 0, which the sampler leaves empty."""
    return np.pad(x, [(0, rows - len(x))] + [(0, 0)] * (x.ndim - 1))


def continuations(
    session: Session, tokenizer: Tokenizer, prompts: list[list[int]], max_new: int, seed: int
) -> loop.Sample:
    """Samples that continue token prompts, written to samples/STEP.txt and returned as text."""
    draw = token_sampler(session, tokenizer.eos, max_new=max_new)

    def sample(state: TrainState, step: int) -> tuple[str, Mapping[str, float]]:
        lines = [f"samples at step {step}: prompt▸continuation, ⏎ where it ended by itself"]
        done = draw(optim.eval_params(state.params, state.opt_state), session.base, prompts, seed)
        for prompt, new in zip(prompts, done, strict=True):
            lines += [
                "",
                *preview_lines(f"{tokenizer.decode(prompt)}▸{tokenizer.decode(new.ids)}", new.ended),
            ]
        text = "\n".join(lines) + "\n"
        write_sample(session, f"{step:08d}.txt", text)
        return text, {}

    return sample


def preview_lines(text: str, ended: bool) -> list[str]:
    """A prompt and what follows, as lines that fit a terminal."""
    return terminal.wrapped(f"{text}{terminal.END if ended else ' …'}", "  │ ")


def write_sample(session: Session, name: str, text: str) -> None:
    """Keeps a text in the run's samples/."""
    if session.primary:
        file = session.path / "samples" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
