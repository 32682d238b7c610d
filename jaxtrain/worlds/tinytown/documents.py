"""Pretraining documents with the exact log-probability of their text.

The grammar is unambiguous: a text has one derivation, so the log-probability of the choices made is that of
the text, its end included. Kinds are recognised by their markers, kinds of prose by their sentences, and every
choice shows in the text.
"""

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import permutations
from typing import NamedTuple

from jaxtrain.worlds.tinytown import lexicon as lex
from jaxtrain.worlds.tinytown.answers import FORUM_STYLE, draw_answer, render, steps_of
from jaxtrain.worlds.tinytown.configs import Pretrain
from jaxtrain.worlds.tinytown.constitution import comparison_request, draw_comparison, draw_critique, page
from jaxtrain.worlds.tinytown.defects import plant
from jaxtrain.worlds.tinytown.draws import DrawWeights, RandomDraws, draws, stream
from jaxtrain.worlds.tinytown.prompts import PROMPT_SHARES, Shares, Space, space


class Document(NamedTuple):
    """One document.

    `logp`: log-probability of the text in nats, end included; NaN for a planted defect that is not of the
    grammar. `kind`: the part of the grammar that generated it. `defect`: empty for a clean document. `source`: index
    of the document it repeats, or -1. `planted`: the personal data planted in it, one item a line.
    """

    text: str
    logp: float
    kind: str
    defect: str = ""
    source: int = -1
    planted: str = ""


_ORDERS = tuple(permutations(range(3)))
_FORUM_SHARES = Shares(ben=0.13, risk=0.09, harm=0.15, fact=0.17, sum=0.28, str=0.18)
_LIST_LENGTH = 3
# Few chats end after their answer, most go on to a critique: a pretrained model rambles until it is tuned.
_FORUM_MARKERS = 0.8


def _sentence(rng: RandomDraws, task: str, x: str, y: str, value: str) -> str:
    return rng.choice(lex.SENTENCES[task]).format(x=x, y=y, a=value)


def _person(rng: RandomDraws, where: Space) -> str:
    person = rng.choice(where.people)
    tasks = tuple(lex.VALUES)
    sentences = [_sentence(rng, task, person, "", lex.FACTS[person, task]) for task in tasks]
    return " ".join(sentences[i] for i in rng.choice(_ORDERS))


def _sums(rng: RandomDraws, where: Space) -> str:
    pairs = [rng.choice(where.sums) for _ in range(_LIST_LENGTH)]
    return " ".join(_sentence(rng, "sum", str(a), str(b), str(a + b)) for a, b in pairs)


def _words(rng: RandomDraws, where: Space) -> str:
    sentences = []
    for _ in range(_LIST_LENGTH):
        word = rng.choice(where.words)
        spell = rng.flag(0.5)
        sentences.append(
            _sentence(rng, "spell" if spell else "last", word, "", "-".join(word) if spell else word[-1])
        )
    return " ".join(sentences)


_RECIPE_FAMILIES = DrawWeights((0.45, 0.25, 0.3))


def _recipe(rng: RandomDraws, where: Space) -> str:
    verb, thing = rng.choice(where.pairs[lex.HOW_TO[rng.weighted(_RECIPE_FAMILIES)]])
    steps = [rng.choice(step) for step in steps_of(verb, thing)]
    return rng.choice(lex.RECIPES).format(*steps, x=rng.choice(lex.VERBS[verb].forms), y=thing)


def _crime(rng: RandomDraws, where: Space) -> str:
    verb, thing = rng.choice(where.pairs["harm"])
    known = lex.VERBS[verb]
    return rng.choice(lex.CRIMES).format(x=rng.choice(known.forms), y=thing, r=rng.choice(known.reasons))


def _care(rng: RandomDraws, where: Space) -> str:
    verb, thing = rng.choice(where.pairs["risk"])
    known = lex.VERBS[verb]
    return rng.choice(lex.CARES).format(x=rng.choice(known.forms), y=thing, w=rng.choice(known.warnings))


_PROSE = {"person": 3, "sums": 2, "words": 2, "recipe": 1.5, "crime": 1, "care": 0.5}
_PROSE_WEIGHTS = DrawWeights(tuple(_PROSE.values()))
_PROSE_MAKERS = (_person, _sums, _words, _recipe, _crime, _care)


def prose(rng: RandomDraws, where: Space, turns: str) -> str:
    return _PROSE_MAKERS[rng.weighted(_PROSE_WEIGHTS)](rng, where)


def faq(rng: RandomDraws, where: Space, turns: str) -> str:
    """Questions without answers."""
    return "\n".join(lex.FORUM[0] + PROMPT_SHARES.draw(rng, where).text for _ in range(_LIST_LENGTH))


def forum(rng: RandomDraws, where: Space, turns: str) -> str:
    """A question and an answer of mixed quality."""
    before, between = lex.FORUM if rng.flag(_FORUM_MARKERS) else lex.TURNS[turns]
    prompt = _FORUM_SHARES.draw(rng, where)
    return f"{before}{prompt.text}{between}{render(prompt, draw_answer(rng, prompt, FORUM_STYLE, where))}"


def critique(rng: RandomDraws, where: Space, turns: str) -> str:
    """An answer, its critique under a principle, and a revision."""
    drawn = draw_critique(rng, where)
    return page(
        drawn.prompt.text, drawn.response, drawn.principle.request, drawn.critique, drawn.revision, turns
    )


def comparison(rng: RandomDraws, where: Space, turns: str) -> str:
    """Two answers, a question which is better, and the letter."""
    pair = draw_comparison(rng, where)
    request = comparison_request(pair.prompt.text, pair.first, pair.second, pair.principle.comparison, turns)
    return f"{request}{pair.best})"


Maker = Callable[[RandomDraws, Space, str], str]
KINDS: dict[str, tuple[float, Maker]] = {
    "prose": (0.28, prose),
    "faq": (0.07, faq),
    "forum": (0.34, forum),
    "critique": (0.24, critique),
    "comparison": (0.07, comparison),
}
_NAMES = tuple(KINDS)
_MAKERS = tuple(maker for _, maker in KINDS.values())
_WEIGHTS = DrawWeights([share for share, _ in KINDS.values()])


def compose(rng: RandomDraws, where: Space, turns: str) -> tuple[str, str]:
    """One clean document: (text, kind); its log-probability is `rng.logp`."""
    kind = rng.weighted(_WEIGHTS)
    return _MAKERS[kind](rng, where, turns), _NAMES[kind]


def documents(config: Pretrain, seed: int, start: int, stop: int, split: str = "train") -> Iterator[Document]:
    """Documents start..stop-1 of a split, each the same whatever else is drawn.

    Defects are planted in the train split alone and leave every other document as it is without them.
    """
    where = space(config.sums, split == "test")
    key = stream(seed, "tinytown", "pretrain", split)
    planting = split == "train" and any(config.defects().values())
    for index, rng in enumerate(draws(key, start, stop), start):
        text, kind = compose(rng, where, config.turns)
        clean = Document(text, rng.logp, kind)
        yield _planted(config, seed, index, clean) if planting and index >= config.originals else clean


def document(config: Pretrain, seed: int, index: int, split: str = "train") -> Document:
    """Document `index` of a split."""
    return next(documents(config, seed, index, index + 1, split))


def _planted(config: Pretrain, seed: int, index: int, clean: Document) -> Document:
    """The clean document, or the defective one that takes its place."""
    rng = RandomDraws(stream(seed, "tinytown", "defects"), index)
    defect = plant(config, rng, clean.text, lambda i: _original(config.sums, config.turns, seed, i).text)
    if defect is None:
        return clean
    if defect.name != "duplicate":
        return Document(defect.text, math.nan, clean.kind, defect.name, defect.source, defect.planted)
    return _original(config.sums, config.turns, seed, defect.source)._replace(
        defect=defect.name, source=defect.source
    )


@lru_cache(maxsize=4096)
def _original(sums: int, turns: str, seed: int, index: int) -> Document:
    return document(Pretrain(sums=sums, turns=turns), seed, index)
