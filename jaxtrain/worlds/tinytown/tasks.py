"""Tasks of several turns with a true answer: facts to look up, sums to calculate, a person to guess.

Each task is a function of its seed. No data set shows them: the facts are drawn anew for each task, and the addends
are larger than those of any prompt.
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from jaxtrain.worlds.tinytown import lexicon as lex
from jaxtrain.worlds.tinytown.answers import CLOSED, parse_answer
from jaxtrain.worlds.tinytown.draws import RandomDraws, stream
from jaxtrain.worlds.tinytown.prompts import TownPrompt, sum_held_out

SMALLEST_ADDEND, LARGEST_ADDEND = 20, 49  # their sums have two digits, as the world's answers do
MOST_QUESTIONS = 20
_KIND_WORDS = {
    "city": ("city", "home", "live", "where"),
    "job": ("job", "work", "works"),
    "pet": ("pet", "animal"),
}
_EXPRESSION = re.compile(r"\s*(\d{1,6})\s*([-+*])\s*(\d{1,6})\s*")
_OPERATORS = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}


class TownReply(NamedTuple):
    """What a game replies to a move; `understood` says whether it was one of the game."""

    text: str
    over: bool = False
    won: bool = False
    understood: bool = True


class SearchTask:
    """A question about a person, whose answer stands in a register of this task alone, which `search` reads."""

    def __init__(self, seed: int):
        self._seed = seed
        draws = RandomDraws(stream(seed, "tinytown", "tasks", "search"), 0)
        self.person, self.kind = draws.choice(lex.PEOPLE), draws.choice(tuple(lex.VALUES))
        template = draws.pick(len(lex.QUESTIONS[self.kind]))
        text = lex.QUESTIONS[self.kind][template].format(x=self.person)
        self._prompt = TownPrompt(text, "fact", self.kind, self.person, "", template)
        self.question = f"{text} Use search(name)."
        self.tools: Mapping[str, Callable[[str], str]] = {"search": self.search}

    def fact(self, person: str, kind: str) -> str:
        """The value that the register has of a person."""
        draws = RandomDraws(stream(self._seed, "tinytown", "tasks", "register", person, kind), 0)
        return draws.choice(lex.VALUES[kind])

    def search(self, query: str) -> str:
        """What the register has of the people in a query, of the kinds that it names, or of all."""
        words = re.findall(r"\w+", query.lower())
        people = [person for person in lex.PEOPLE if person.lower() in words]
        kinds = [kind for kind, names in _KIND_WORDS.items() if any(name in words for name in names)]
        lines = [
            lex.SENTENCES[kind][0].format(x=person, a=self.fact(person, kind))
            for person in people
            for kind in kinds or lex.VALUES
        ]
        return " ".join(lines) or "Nothing found."

    def correct(self, answer: str) -> bool:
        """Whether the answer, short or a sentence of the world, has the register's value."""
        return _value(self._prompt, answer) == self.fact(self.person, self.kind)


class CalculatorTask:
    """A sum of addends that no prompt has, and a calculator. Demonstrations have sums that no other task has."""

    def __init__(self, seed: int, demonstration: bool = False):
        draws = RandomDraws(stream(seed, "tinytown", "tasks", "calculator"), 0)
        addends = range(SMALLEST_ADDEND, LARGEST_ADDEND + 1)
        self.a, self.b = draws.choice(addends), draws.choice(addends)
        while sum_held_out(self.a, self.b) == demonstration:
            self.a, self.b = draws.choice(addends), draws.choice(addends)
        template = draws.pick(len(lex.QUESTIONS["sum"]))
        text = lex.QUESTIONS["sum"][template].format(x=self.a, y=self.b)
        self._prompt = TownPrompt(text, "sum", "sum", str(self.a), str(self.b), template)
        self.question = f"{text} Use calculator(sum)."
        self.tools: Mapping[str, Callable[[str], str]] = {"calculator": self.calculator}

    def calculator(self, expression: str) -> str:
        """The value of two numbers with +, - or * between them. Raises ValueError for anything else."""
        match = _EXPRESSION.fullmatch(expression)
        if not match:
            raise ValueError(f"write two numbers with + between them, not {expression[:40]!r}")
        return str(_OPERATORS[match[2]](int(match[1]), int(match[3])))

    def correct(self, answer: str) -> bool:
        """Whether the answer, short or a sentence of the world, has the sum."""
        return _value(self._prompt, answer) == str(self.a + self.b)


class TwentyQuestions:
    """A person is to be found by questions, each a list of cities, jobs, pets or people, and named; one guess."""

    question = "Who am I? Ask for cities, jobs, pets or people, as in: Lima or Oslo? Then name me."

    def __init__(self, seed: int):
        draws = RandomDraws(stream(seed, "tinytown", "tasks", "twenty_questions"), 0)
        self.person, self.questions = draws.choice(lex.PEOPLE), 0

    def reply(self, text: str) -> TownReply:
        """Yes or no to a list of values; a single name is the guess. A wrong guess, or the last question, loses."""
        words = re.split(r"\s*,\s*|\s+or\s+", text.strip().rstrip(".?!").strip())
        if words[0] in lex.PEOPLE and len(words) == 1:
            right = words[0] == self.person
            return TownReply("Yes." if right else "No.", over=True, won=right)
        self.questions += 1
        over = self.questions >= MOST_QUESTIONS
        answers = {kind: lex.FACTS[self.person, kind] for kind in lex.VALUES} | {"people": self.person}
        for kind, values in {**lex.VALUES, "people": lex.PEOPLE}.items():
            if set(words) <= set(values):
                return TownReply("Yes." if answers[kind] in words else "No.", over=over)
        return TownReply("Ask as in: Lima or Oslo?", over=over, understood=False)


def _value(prompt: TownPrompt, text: str) -> str:
    """The value of an answer of the world's language; empty where it is none."""
    answer = parse_answer(prompt, text)
    return answer.value if answer is not None and answer.kind == CLOSED else ""


TOOL_TASKS = {"search": SearchTask, "calculator": CalculatorTask}
GAMES = {"twenty_questions": TwentyQuestions}
