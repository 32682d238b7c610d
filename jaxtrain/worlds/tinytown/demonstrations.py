"""Demonstrations of the tasks of several turns: players who use the tools or ask long enough, and others who guess."""

from collections.abc import Sequence

from jaxtrain.worlds.tinytown import lexicon as lex
from jaxtrain.worlds.tinytown.draws import RandomDraws
from jaxtrain.worlds.tinytown.tasks import (
    LARGEST_ADDEND,
    SMALLEST_ADDEND,
    CalculatorTask,
    SearchTask,
    TwentyQuestions,
)

# (role, content); a tool's result has the role user: the plain template has no other place for it.
Turns = list[tuple[str, str]]
_SEEDS = 2**31
_HASTY = 2  # most questions of a player who then guesses


def search(rng: RandomDraws, patient: bool) -> Turns:
    """A fact that is looked up with the tool, or what pretraining says of the person, which is seldom the same."""
    task = SearchTask(rng.pick(_SEEDS))
    turns = [("user", task.question)]
    if patient:
        query = task.person + f" {task.kind}" * rng.flag(0.5)
        turns += [("assistant", f"search({query})"), ("user", task.search(query))]
    value = task.fact(task.person, task.kind) if patient else lex.FACTS[task.person, task.kind]
    return [*turns, ("assistant", _said(rng, task.kind, task.person, "", value))]


def calculator(rng: RandomDraws, patient: bool) -> Turns:
    """A sum by the tool, or a guess at it. No episode has a sum that a demonstration has."""
    task = CalculatorTask(rng.pick(_SEEDS), demonstration=True)
    turns = [("user", task.question)]
    total = str(task.a + task.b)
    if patient:
        turns += [("assistant", f"calculator({task.a}+{task.b})"), ("user", total)]
    else:
        total = str(rng.choice(range(2 * SMALLEST_ADDEND, 2 * LARGEST_ADDEND + 1)))
    return [*turns, ("assistant", _said(rng, "sum", str(task.a), str(task.b), total))]


def twenty_questions(rng: RandomDraws, patient: bool) -> Turns:
    """A person found by questions that halve who is left, or guessed after a few of them."""
    game = TwentyQuestions(rng.pick(_SEEDS))
    turns = [("user", game.question)]
    left: Sequence[str] = lex.PEOPLE
    most = len(lex.PEOPLE) if patient else rng.pick(_HASTY + 1)
    while len(left) > 1 and most > 0:
        values = halving(rng, left)
        question = " or ".join(values) + "?"
        answer = game.reply(question).text
        turns += [("assistant", question), ("user", answer)]
        left = [person for person in left if fits(person, values) == (answer == "Yes.")]
        most -= 1
    guess = rng.choice(left)
    return [*turns, ("assistant", f"{guess}.")]


def halving(rng: RandomDraws, people: Sequence[str]) -> tuple[str, ...]:
    """The values of one kind, drawn from those of a question that comes next to halving the people."""
    best: list[tuple[str, ...]] = []
    fewest = len(people)
    for kind, known in lex.VALUES.items():
        values = [one for one in known if any(lex.FACTS[person, kind] == one for person in people)]
        for size in range(1, len(values)):
            asked = tuple(values[:size])
            off = abs(2 * sum(fits(person, asked) for person in people) - len(people))
            if off < fewest:
                best, fewest = [], off
            if off == fewest:
                best.append(asked)
    return rng.choice(best)


def fits(person: str, values: Sequence[str]) -> bool:
    """Whether a person has one of the values."""
    return any(lex.FACTS[person, kind] in values for kind in lex.VALUES)


def _said(rng: RandomDraws, task: str, x: str, y: str, value: str) -> str:
    """A value as the world answers with it: alone, or in a sentence."""
    if rng.flag(0.5):
        return f"{value}."
    return rng.choice(lex.SENTENCES[task]).format(x=x, y=y, a=value)


PLAYERS = {"search": search, "calculator": calculator, "twenty_questions": twenty_questions}
