"""What is asked of a model and what it replies, whether it is a run of ours or an endpoint."""

import dataclasses
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jaxtrain.data.chat import Template
from jaxtrain.data.record_formats import Message

CUT = "length"  # finish_reason of a reply that a limit ended
REFUSED = "refused"  # of one that is empty: the prompt is too long, or not taken


class Request(NamedTuple):
    """One request. Its replies depend on it alone, and with a run on nothing else."""

    messages: tuple[Message, ...]
    samples: int = 1
    seed: int = 0
    temperature: float = 1.0
    max_new: int = 256
    top_logprobs: int = 0  # log-probabilities wanted at each token; 0: none
    stop: tuple[str, ...] = ()  # texts before which a reply ends
    raw: bool = False  # continue the one message's text as it is, without a chat template


class TokenLogprob(NamedTuple):
    """A token of a reply, with the likeliest ones in its place; log-probabilities in nats, at temperature 1."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...]
    data: tuple[
        bytes, ...
    ] = ()  # of the token, then of each in `top`, where they are told: a text may lack some


class Completion(NamedTuple):
    text: str
    finish_reason: str  # stop, CUT or REFUSED
    logprobs: tuple[TokenLogprob, ...] | None = None


Generate = Callable[[Sequence[Request]], list[list[Completion]]]  # `samples` replies to each


@dataclasses.dataclass
class Usage:
    """What was asked for so far; threads add to it."""

    requests: int = 0
    cached: int = 0  # requests answered from the cache, which cost nothing now
    repeated: int = 0  # requests sent again because the answer was unusable
    refused: int = 0  # prompts that were not taken while others were
    tokens_in: int = 0
    tokens_out: int = 0
    uncounted: int = 0  # answers that did not say how many tokens they cost
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock, repr=False)

    def add(self, **counts: int) -> None:
        with self.lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)


class LocalModel(NamedTuple):
    """What a run tells beside its replies."""

    template: Template  # how it sees a conversation
    # (prompt, answer) ids -> of each answer's tokens the log-probability, in nats, and whether it is the likeliest one
    logps: Callable[[Sequence[tuple[np.ndarray, np.ndarray]]], list[tuple[np.ndarray, np.ndarray]]]
    context: int  # most tokens of prompt and answer; 0: no bound


class LLM(NamedTuple):
    """A model that replies."""

    name: str  # as provenance has it
    generate: Generate
    chat: bool  # whether it knows turns; if not, it continues text
    spent: Usage
    remote: bool = False
    embed: Callable[[Sequence[str]], np.ndarray] | None = None  # texts -> f32[N, D], mean hidden states
    notes: tuple[tuple[str, str], ...] = ()
    close: Callable[[], None] = lambda: None
    inside: LocalModel | None = None


def user(text: str, system: str = "") -> tuple[Message, ...]:
    """A question, after a system message where there is one."""
    first = ({"role": "system", "content": system},) if system else ()
    return (*first, {"role": "user", "content": text})


def seed_of(*parts: int) -> int:
    """A seed that depends on all of `parts`, below 2³¹, which every endpoint takes."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0] >> 1)
