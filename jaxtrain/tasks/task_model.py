"""What evaluation tasks need of a model: its tokenizer, log-probabilities of continuations, completions of texts."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtrain.config import Failure

Pair = tuple[np.ndarray, np.ndarray]  # ids i32[n] of a context, at least one, and i32[m] of its continuation
Scores = list[
    tuple[np.ndarray, np.ndarray]
]  # of each continuation: log-probs f32[m], nats; likeliest? bool[m]

LONGEST = 256  # tokens of a completion, where a task sets no limit


class TextPrompt(NamedTuple):
    """A text that the model continues as it is, without a chat template."""

    text: str
    max_new: int = LONGEST
    temperature: float = 0.0
    stops: tuple[str, ...] = ()  # texts before which the completion ends
    number: int = 0  # of the question; with the seed it decides what is sampled


class TaskModel(NamedTuple):
    """A model as tasks see it, whatever holds its parameters: a run in training, a loaded run."""

    encode: Callable[[Sequence[str]], list[np.ndarray]]  # ids i32[n] of each text, without special tokens
    bos: int  # the token that every text follows
    context: int  # most tokens of a row; 0: no bound
    logps: Callable[[Sequence[Pair]], Scores]
    generate: Callable[[Sequence[TextPrompt]], list[str]]
    count_cut: Callable[[], None] = lambda: None  # called for each prompt that loses its beginning


def dry_model(model: TaskModel) -> TaskModel:
    """`model` with made-up answers at once: equal log-probabilities, empty completions. It tries tasks, not models."""
    return model._replace(
        logps=lambda pairs: [
            (np.full(len(own), -1.0, np.float32), np.zeros(len(own), bool)) for _, own in pairs
        ],
        generate=lambda prompts: [""] * len(prompts),
    )


def tokenize_pair(model: TaskModel, context: str, continuation: str) -> Pair:
    """(ids of BOS and the context, ids of the continuation), as lm-eval cuts them.

    The two are encoded as one text, and cut after as many tokens as the context has by itself, without the white space
    at its end, which belongs to the token after it. A context that is too long loses its beginning, BOS included.
    """
    bare = context.rstrip()
    before, whole = model.encode([bare, context + continuation])
    ids, own = (before, whole[len(before) :]) if bare else (whole[:0], whole)
    if not len(own):  # a token spans the cut
        same = int(np.cumprod(before[: len(whole)] == whole[: len(before)]).sum())
        ids, own = whole[:same], whole[same:]
    ids = after_bos(model, ids)
    if model.context and len(own) > model.context:
        raise Failure(f"a continuation of {len(own)} tokens does not fit a context of {model.context}")
    most = model.context + 1 - len(own)  # the last token of a continuation is predicted, and not read
    if model.context and len(ids) > most:
        model.count_cut()
        ids = ids[-most:]
    return ids, own


def windows(model: TaskModel, text: str) -> list[Pair]:
    """(context, continuation) ids of a text in windows of the model's context: each token is predicted once.

    A window that is not full reads the tokens before it, as lm-eval's do.
    """
    (ids,) = model.encode([text])
    size = model.context or max(1, len(ids))
    pairs = []
    for first in range(0, len(ids), size):
        end = min(first + size, len(ids))
        before = ids[max(0, end - size - 1) : first] if first else after_bos(model, ids[:0])
        pairs.append((before, ids[first:end]))
    return pairs


def after_bos(model: TaskModel, ids: np.ndarray) -> np.ndarray:
    """The ids behind BOS."""
    return np.concatenate([np.asarray([model.bos], np.int32), ids])


def text_prompt(number: int, context: str, options: Mapping[str, Any]) -> TextPrompt:
    """A request of lm-eval's generate_until."""
    until = options.get("until") or ()
    return TextPrompt(
        context,
        max_new=int(options.get("max_gen_toks") or options.get("max_tokens") or LONGEST),
        temperature=float(options.get("temperature") or 0.0) if options.get("do_sample") else 0.0,
        stops=(until,) if isinstance(until, str) else tuple(until),
        number=number,
    )
