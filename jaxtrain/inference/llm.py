"""Requests to a language model and its completions, whether it is a local run or an endpoint."""

import dataclasses
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jaxtrain.data.chat import Template
from jaxtrain.data.messages import Message
from jaxtrain.data.response import split_thought

CUT_OFF = "length"  # finish_reason of a completion that a limit ended
REFUSED = "refused"  # of an empty one: the prompt is too long, or not accepted
FILTERED = "content_filter"  # of one that the endpoint's filter ended
UNFINISHED = (CUT_OFF, REFUSED, FILTERED)


class Request(NamedTuple):
    """A prompt and its sampling parameters. With a local run, completions depend on nothing else."""

    messages: tuple[Message, ...]
    samples: int = 1
    seed: int = 0
    temperature: float = 1.0
    max_new: int = 256
    top_logprobs: int = (
        0  # number of the likeliest tokens with their log-probabilities at each place; 0: none
    )
    stop: tuple[str, ...] = ()  # texts before which a completion ends
    raw: bool = False  # continue the text of the one message, without a chat template


class TokenLogprob(NamedTuple):
    """A token of a completion, with the likeliest ones in its place; log-probabilities in nats, at temperature 1."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...]
    # Bytes of the token, then of each in `top`, where the endpoint has them: a text may lack some.
    data: tuple[bytes, ...] = ()


class Completion(NamedTuple):
    """The answer of a model, apart from the thought before it."""

    text: str
    finish_reason: str  # "stop", one of UNFINISHED, or an endpoint's own word
    logprobs: tuple[TokenLogprob, ...] | None = None  # of the answer's tokens
    thought: str = ""
    detail: str = ""  # why it is REFUSED

    def message(self) -> Message:
        """The assistant's message: the answer without white space around it, its thought in reasoning_content."""
        thought = {"reasoning_content": self.thought} if self.thought else {}
        return {"role": "assistant", "content": self.text.strip(), **thought}


def completion_of(
    text: str,
    finish_reason: str,
    logprobs: tuple[TokenLogprob, ...] | None = None,
    *,
    raw: bool = False,
    opened: bool | None = False,
    thought: str = "",
) -> Completion:
    """A completion of what a model wrote, its thought taken apart; a `raw` text has none.

    `opened` is that of split_thought, `thought` what came apart already. Log-probabilities of a thought's tokens are
    left out.
    """
    inside, answer = ("", text) if raw else split_thought(text, opened)
    if logprobs is not None and (thought or answer != text):
        logprobs = _last_tokens(logprobs, answer)
    return Completion(answer, finish_reason, logprobs, "\n\n".join(filter(None, (thought, inside))))


def _last_tokens(tokens: tuple[TokenLogprob, ...], answer: str) -> tuple[TokenLogprob, ...]:
    """The tokens from the first one on that has a part of the answer, which ends the text."""
    start = "".join(one.token for one in tokens).rfind(answer) if answer else -1
    at = 0
    for i, one in enumerate(tokens):
        at += len(one.token)
        if 0 <= start < at:
            return tokens[i:]
    return ()


Generate = Callable[[Sequence[Request]], list[list[Completion]]]  # `samples` completions of each


@dataclasses.dataclass
class Usage:
    """Counts of requests and tokens so far; threads add to them."""

    requests: int = 0
    cached: int = 0  # requests answered from the request cache, at no cost
    repeated: int = 0  # requests sent again because the response was malformed
    refused: int = 0  # prompts that were not accepted while others were
    tokens_in: int = 0
    tokens_out: int = 0
    uncounted: int = 0  # responses without a count of tokens
    # parameter that the endpoint does not take -> a line about what is sent instead
    changes: dict[str, str] = dataclasses.field(default_factory=dict)
    batch: str = ""  # the batch of work that requests are for now
    sent: set[str] = dataclasses.field(default_factory=set)  # keys of requests that count for it
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock, repr=False)

    def start_batch(self, batch: str) -> dict[str, int]:
        """The counts so far; the requests that follow are for another batch of work."""
        with self.lock:
            self.batch, self.sent = batch, set()
        return self.counts()

    def counts(self) -> dict[str, int]:
        """All counts of requests and tokens."""
        with self.lock:
            return {name: value for name, value in vars(self).items() if isinstance(value, int)}

    def is_first(self, key: str, batch: str) -> bool:
        """Whether a request that was sent for `batch` counts: that is the current one, and it was not counted yet.

        A stored response then is one that this process has sent, or one before it that was killed in this batch.
        """
        with self.lock:
            first = batch == self.batch and key not in self.sent
            self.sent.add(key)
            return first

    def add(self, **counts: int) -> None:
        with self.lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)

    def add_change(self, name: str, line: str) -> bool:
        """Whether a change of the requests is new; it stands in `changes` from then on."""
        with self.lock:
            return self.changes.setdefault(name, line) is line

    def change_lines(self) -> list[str]:
        """The lines about what the endpoint does not take."""
        with self.lock:
            return list(self.changes.values())


class LocalModel(NamedTuple):
    """What a local run offers beyond completions."""

    template: Template
    # (prompt, completion) ids -> of each completion's tokens the log-probability, in nats, and whether it is the
    # likeliest one
    logps: Callable[[Sequence[tuple[np.ndarray, np.ndarray]]], list[tuple[np.ndarray, np.ndarray]]]
    context: int  # most tokens of prompt and completion; 0: no bound


class LLM(NamedTuple):
    """A language model behind one interface: a local run or an endpoint."""

    name: str  # as reports name it
    generate: Generate
    chat: bool  # whether it has a chat template; if not, it continues text
    usage: Usage
    remote: bool = False
    embed: Callable[[Sequence[str]], np.ndarray] | None = None  # texts -> f32[N, D], mean hidden states
    notes: tuple[tuple[str, str], ...] = ()
    close: Callable[[], None] = lambda: None
    local: LocalModel | None = None


def user_messages(text: str, system: str = "") -> tuple[Message, ...]:
    """The messages of one user turn, after a system message where there is one."""
    first = ({"role": "system", "content": system},) if system else ()
    return (*first, {"role": "user", "content": text})


def derive_seed(*parts: int) -> int:
    """A seed that depends on all of `parts`, below 2³¹, which every endpoint takes."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0] >> 1)
