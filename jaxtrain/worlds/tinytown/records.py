"""The rows of every config, deterministic by options, split and index."""

import heapq
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

from jaxtrain.worlds.tinytown.annotator import Annotator
from jaxtrain.worlds.tinytown.answers import TownStyle, draw_answer, render, right_answer
from jaxtrain.worlds.tinytown.configs import (
    COLUMNS,
    Constitution,
    Demonstrations,
    Options,
    Preferences,
    Pretrain,
    Prompts,
    Redteam,
    Reviews,
    Sft,
    split_size,
)
from jaxtrain.worlds.tinytown.constitution import draw_critique, page
from jaxtrain.worlds.tinytown.demonstrations import PLAYERS
from jaxtrain.worlds.tinytown.documents import documents
from jaxtrain.worlds.tinytown.draws import RandomDraws, draws, stream
from jaxtrain.worlds.tinytown.judge import gold
from jaxtrain.worlds.tinytown.prompts import Space, TownPrompt, families_of, shares_of, space
from jaxtrain.worlds.tinytown.reviews import draw_review, review_gold

Row = tuple[Any, ...]


def rows(options: Options, split: str, start: int = 0, stop: int | None = None) -> Iterator[Row]:
    """Rows start..stop-1 of a split, in the order of `COLUMNS`; by default all of them."""
    stop = split_size(options, split) if stop is None else stop
    if isinstance(options, Pretrain):
        yield from documents(options, options.seed, start, stop, split)
    elif isinstance(options, Prompts | Redteam):
        for prompt in _distinct(options, split)[start:stop]:
            yield prompt.text, render(prompt, right_answer(prompt)), prompt.family
    else:
        name = type(options).__name__.lower()
        where = space(options.sums, split == "test")
        make = _MAKERS[type(options)]
        for rng in draws(stream(options.seed, "tinytown", name, split), start, stop):
            yield make(rng, options, where)


def named_rows(config: str, options: Options, split: str) -> Iterator[dict[str, Any]]:
    """The rows of a split as dictionaries."""
    names = tuple(COLUMNS[config])
    for row in rows(options, split):
        yield dict(zip(names, row, strict=True))


def _sft(rng: RandomDraws, options: Sft, where: Space) -> Row:
    prompt = shares_of("").draw(rng, where)
    before = rng.logp
    response = render(prompt, draw_answer(rng, prompt, TownStyle(**options.style()), where))
    return prompt.text, response, prompt.family, rng.logp - before


def _preference(rng: RandomDraws, options: Preferences, where: Space) -> Row:
    prompt = shares_of(options.family).draw(rng, where)
    first = second = _compared(rng, options, prompt, where)
    while second == first:
        second = _compared(rng, options, prompt, where)
    annotator = Annotator(options.temperature, options.group)
    pair = [(text, gold(prompt, text)) for text in (first, second)]
    a, b = (reward + annotator.taste(prompt, text) for text, reward in pair)
    p_win = annotator.p_over(a - b)
    if not rng.flag(p_win):
        pair.reverse()
        p_win = 1.0 - p_win
    (chosen, reward_chosen), (rejected, reward_rejected) = pair
    return prompt.text, chosen, rejected, reward_chosen, reward_rejected, p_win, prompt.family


def _compared(rng: RandomDraws, options: Preferences, prompt: TownPrompt, where: Space) -> str:
    """An answer to compare, in which a word may be that of an answer to another prompt of the family."""
    style = TownStyle(**options.style())
    words = render(prompt, draw_answer(rng, prompt, style, where)).split(" ")
    if rng.flag(options.slip):
        others: list[str] = []
        while len(others) != len(words):  # of one length, most words stand in the same part of a sentence
            other = rng.choice(where.prompts[prompt.family])
            others = render(other, draw_answer(rng, other, style, where)).split(" ")
        at = rng.pick(len(words))
        words[at] = others[at]
    return " ".join(words)


def _critique(rng: RandomDraws, options: Constitution, where: Space) -> Row:
    critique = draw_critique(rng, where, options.faulty)
    shown = (critique.principle.request, critique.critique, critique.revision)
    text = page(critique.prompt.text, critique.response, *shown, options.turns)
    return critique.prompt.text, critique.response, critique.principle.id, *shown, int(critique.faulty), text


def _episode(rng: RandomDraws, options: Demonstrations, where: Space) -> Row:
    task = options.task or rng.choice(tuple(PLAYERS))
    turns = PLAYERS[task](rng, rng.flag(options.patient))
    return json.dumps([{"role": role, "content": content} for role, content in turns]), task


def _review(rng: RandomDraws, options: Reviews, where: Space) -> Row:
    text = draw_review(rng)
    return text, rng.logp, review_gold(text)


_MAKERS: dict[type[Options], Callable[[RandomDraws, Any, Space], Row]] = {
    Sft: _sft,
    Preferences: _preference,
    Constitution: _critique,
    Demonstrations: _episode,
    Reviews: _review,
}


def _distinct(options: Prompts | Redteam, split: str) -> list[TownPrompt]:
    """Distinct prompts in a seeded order, families in proportion to their shares until one is used up.

    Raises ValueError when the world has fewer prompts than rows are asked for.
    """
    family = "harm" if isinstance(options, Redteam) else options.family
    families = families_of(family)
    where = space(options.sums, split == "test")
    candidates = [prompt for family in families for prompt in where.prompts[family]]
    count = split_size(options, split)
    if count > len(candidates):
        option = "documents" if split == "train" else "held_out"
        raise ValueError(
            f"there are {len(candidates)} distinct {split} prompts, {option}={count} asks for more"
        )
    every = shares_of("")
    shares = dict(zip(every.families, every.weights.logs, strict=True))
    # The k smallest of independent exponential clocks are a weighted sample without replacement.
    clocks = {}
    for prompt, rng in zip(
        candidates, draws(stream(options.seed, "tinytown", "prompts", split), 0, len(candidates)), strict=True
    ):
        rate = math.exp(shares[prompt.family]) / len(where.prompts[prompt.family])
        clocks[prompt] = -math.log(1.0 - rng.uniform()) / rate
    return heapq.nsmallest(count, candidates, key=clocks.__getitem__)
