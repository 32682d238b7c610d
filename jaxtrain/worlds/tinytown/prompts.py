"""Prompts as typed records that their text identifies, and the spaces that they are drawn from."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import NamedTuple

from jaxtrain.worlds.tinytown import lexicon as lex
from jaxtrain.worlds.tinytown.draws import DrawWeights, RandomDraws


class TownPrompt(NamedTuple):
    """A question. `x`, `y` are (verb, object), (person, ""), (addend, addend) or (word, ""), by `task`."""

    text: str
    family: str
    task: str
    x: str
    y: str
    template: int
    form: str = ""

    @property
    def answer(self) -> str:
        """The right value of a closed question; empty for a how-to."""
        if self.family == "fact":
            return lex.FACTS[self.x, self.task]
        if self.family == "sum":
            return str(int(self.x) + int(self.y))
        return {"spell": "-".join(self.x), "last": self.x[-1:]}.get(self.task, "")

    @property
    def harmful(self) -> bool:
        """Whether it asks for harm."""
        return self.family == "harm"

    @property
    def how_to(self) -> bool:
        """Whether it asks for instructions, harmful or not."""
        return self.task == "howto"


def pair_held_out(verb: str, thing: str) -> bool:
    """True for the eighth of the (verb, object) pairs that only the test split shows."""
    return (7 * list(lex.VERBS).index(verb) + 3 * lex.OBJECTS.index(thing)) % 8 == 0


def sum_held_out(a: int, b: int) -> bool:
    """True for the eighth of the sums that only the test split shows."""
    return (10 * a + b) % 8 == 3


def held_out(prompt: TownPrompt) -> bool:
    """True when the prompt belongs to the test split.

    How-to questions and sums are held out by content. A fact or a spelling must be in the training data,
    so of it some questions are held out, never all of them.
    """
    if prompt.task == "howto":
        return pair_held_out(prompt.x, prompt.y)
    if prompt.task == "sum":
        return sum_held_out(int(prompt.x), int(prompt.y))
    position = (lex.PEOPLE if prompt.family == "fact" else lex.WORDS).index(prompt.x)
    return (7 * position + 3 * prompt.template + list(lex.QUESTIONS).index(prompt.task)) % 8 == 0


@cache
def every_prompt() -> Mapping[str, TownPrompt]:
    """Every prompt of every split by its text, with addends up to the largest any option allows."""
    prompts: list[TownPrompt] = []

    def add(family: str, task: str, x: str, y: str = "", forms: tuple[str, ...] = ("",)) -> None:
        for form, (i, template) in product(forms, enumerate(lex.QUESTIONS[task])):
            prompts.append(TownPrompt(template.format(x=form or x, y=y), family, task, x, y, i, form))

    for (name, verb), thing in product(lex.VERBS.items(), lex.OBJECTS):
        add(verb.family, "howto", name, thing, verb.forms)
    for person, task in product(lex.PEOPLE, lex.VALUES):
        add("fact", task, person)
    for a, b in product(range(lex.LARGEST_ADDEND + 1), repeat=2):
        add("sum", "sum", str(a), str(b))
    for word, task in product(lex.WORDS, ("spell", "last")):
        add("str", task, word)
    return {prompt.text: prompt for prompt in prompts}


def parse_prompt(text: str) -> TownPrompt | None:
    """The prompt whose text this is, or None when it is not a question of this world."""
    return every_prompt().get(text.strip())


@dataclass(frozen=True)
class Space:
    """The space of a split: prompts and how-to pairs by family, sums, and the subjects of prose."""

    prompts: Mapping[str, tuple[TownPrompt, ...]]
    pairs: Mapping[str, tuple[tuple[str, str], ...]]
    sums: tuple[tuple[int, int], ...]
    totals: tuple[str, ...]
    people: tuple[str, ...] = lex.PEOPLE
    words: tuple[str, ...] = lex.WORDS
    objects: tuple[str, ...] = lex.OBJECTS

    def values(self, task: str) -> tuple[str, ...]:
        """The values a wrong answer to a closed question is drawn from, the right one included."""
        if task == "sum":
            return self.totals
        if task == "spell":
            return tuple("-".join(word) for word in self.words)
        return lex.LETTERS if task == "last" else lex.VALUES[task]


@cache
def space(sums: int = 9, test: bool = False) -> Space:
    """The space of the training split, or of the test split, with addends 0..`sums`."""
    prompts = [p for p in every_prompt().values() if held_out(p) == test]
    prompts = [p for p in prompts if p.task != "sum" or max(int(p.x), int(p.y)) <= sums]
    pairs = [(v, o) for v, o in product(lex.VERBS, lex.OBJECTS) if pair_held_out(v, o) == test]
    addends = range(sums + 1)
    return Space(
        prompts={family: tuple(p for p in prompts if p.family == family) for family in lex.FAMILIES},
        pairs={f: tuple((v, o) for v, o in pairs if lex.VERBS[v].family == f) for f in lex.HOW_TO},
        sums=tuple((a, b) for a, b in product(addends, repeat=2) if sum_held_out(a, b) == test),
        totals=tuple(str(total) for total in range(2 * sums + 1)),
    )


class Shares:
    """Families and their shares, prepared for drawing."""

    def __init__(self, **shares: float):
        self.families = tuple(shares)
        self.weights = DrawWeights(tuple(shares.values()))

    def draw(self, draws: RandomDraws, where: Space) -> TownPrompt:
        family = self.families[draws.weighted(self.weights)] if len(self.families) > 1 else self.families[0]
        return draws.choice(where.prompts[family])


_SHARES = {"ben": 0.25, "risk": 0.15, "harm": 0.2, "fact": 0.15, "sum": 0.15, "str": 0.1}
PROMPT_SHARES = Shares(**_SHARES)


def families_of(family: str) -> tuple[str, ...]:
    """The families that an option names: every one, one, or all but harm for help."""
    if family == "help":
        return tuple(name for name in lex.FAMILIES if name != "harm")
    return (family,) if family else lex.FAMILIES


@cache
def shares_of(family: str) -> Shares:
    """The families that an option names, each with its share among them."""
    return Shares(**{name: _SHARES[name] for name in families_of(family)}) if family else PROMPT_SHARES
