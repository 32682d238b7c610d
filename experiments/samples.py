"""What a run writes while it trains."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from experiments.common import Session, gathered
from jaxtrain.data.tokenizer import Tokenizer
from jaxtrain.generate import sampler
from jaxtrain.train import loop, optim, parallel, preflight
from jaxtrain.types import Params, TrainState

PROMPTS, LONGEST = 8, 24  # prompts that pretraining samples from, and most tokens of one
AT_ONCE = 128  # rows sampled at once


class Drawn(NamedTuple):
    ids: list[int]
    ended: bool  # by itself, not by the limit


def openings(plan: parallel.Plan, batch: Mapping[str, np.ndarray]) -> list[list[int]]:
    """Prompts: the first half, at most LONGEST tokens, of the first document of each row, the same on all hosts."""
    whole = gathered(plan, {name: batch[name] for name in ("tokens", "segments")})
    sizes = (whole["segments"] == 1).sum(-1)
    cut = [
        row[: min(LONGEST, (n + 1) // 2)].tolist() for row, n in zip(whole["tokens"], sizes, strict=True) if n
    ]
    return cut[:PROMPTS]


def drawer(
    run: Session, end: int, prompts: list[list[int]], *, max_new: int, seed: int, temperature: float = 1.0
) -> Callable[[Params, Params], list[Drawn]]:
    """A function of (what is trained, the base) that draws a completion of each prompt, from the same seeds."""
    shards, (index, hosts) = run.plan.shards, run.plan.process
    size = -(-min(len(prompts), AT_ONCE) // shards) * shards
    if run.arch.max_len:
        max_new = min(max_new, run.arch.max_len - max(map(len, prompts)))
    draw = sampler.sampler(run.model, max_new=max_new, end=end, temperature=temperature)
    compiled = run.plan.rows(lambda params, base, batch: draw(run.trained.whole(params, base), (), batch))
    here = slice(index * size // hosts, (index + 1) * size // hosts)
    filled = [prompts[i % len(prompts)] for i in range(-(-len(prompts) // size) * size)]
    batch = sampler.prompts(filled, seed)

    def drawn(params: Params, base: Params) -> list[Drawn]:
        out = []
        for first in range(0, len(filled), size):
            part = {name: x[first : first + size][here] for name, x in batch.items()}
            done = run.plan.get(compiled(params, base, run.plan.put(part)))
            rows = [row[:n].tolist() for row, n in zip(done.tokens, done.lengths, strict=True)]
            out += [Drawn(row, end in row) for row in rows]
        return out[: len(prompts)]

    return drawn


def continuations(
    run: Session, tokenizer: Tokenizer, prompts: list[list[int]], max_new: int, seed: int
) -> loop.Sample:
    """Samples that continue token prompts, written to samples/STEP.txt and returned as text."""
    draw = drawer(run, tokenizer.eos, prompts, max_new=max_new, seed=seed)

    def sample(state: TrainState, step: int) -> tuple[str, Mapping[str, float]]:
        lines = [f"samples at step {step}: prompt▸continuation, ⏎ where it ended by itself"]
        done = draw(optim.evaluated(state.params, state.opt_state), run.base)
        for prompt, new in zip(prompts, done, strict=True):
            lines += ["", *shown(f"{tokenizer.decode(prompt)}▸{tokenizer.decode(new.ids)}", new.ended)]
        text = "\n".join(lines) + "\n"
        write(run, f"{step:08d}.txt", text)
        return text, {}

    return sample


def shown(text: str, ended: bool) -> list[str]:
    """A prompt and what follows, as lines that fit a terminal."""
    return preflight.wrapped(f"{text}{preflight.END if ended else ' …'}", "  │ ")


def write(run: Session, name: str, text: str) -> None:
    """Keeps a text in the run's samples/."""
    if run.primary:
        folder = run.path / "samples"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
