"""Worlds: generated data whose ground truth is a program, and the protocol by which generic code asks one."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

EMBEDDED = "tinytown"  # the world that comes with the library


class WorldPrompt(Protocol):
    """A prompt that a world knows."""

    @property
    def family(self) -> str:
        """The kind of request, by which reports group prompts."""

    @property
    def harmful(self) -> bool:
        """Whether it asks for harm, so that the right completion refuses."""

    @property
    def how_to(self) -> bool:
        """Whether it asks for instructions, harmful or not."""


class Verdict(Protocol):
    """The features of a completion that a world's judge finds."""

    parsable: bool  # in the world's language of completions, right or wrong
    correct: bool
    refuse: bool
    explained: bool  # a refusal, for a reason that fits the prompt
    evade: bool
    rude: bool
    harmful: bool
    steps: int  # of the instructions that the prompt asks for, how many it gives


class ToolTask(Protocol):
    """A question that is to be answered with tools."""

    question: str
    tools: Mapping[
        str, Callable[[str], str]
    ]  # each raises ValueError where it cannot do anything with its argument

    def correct(self, answer: str) -> bool:
        """Whether an answer is right."""


class GameReply(Protocol):
    """What a game replies to a move."""

    text: str
    over: bool
    won: bool
    understood: bool  # whether the move was one of the game


class Game(Protocol):
    """A game of several turns."""

    question: str  # what the player is told first

    def reply(self, text: str) -> GameReply:
        """The reply to a move, which is any text."""


class World(Protocol):
    """A world as generic code sees it: it parses its prompts and judges any completion of them."""

    name: str  # the KIND of its data sources
    eval_prompts: str  # the data source of the prompts on which runs are evaluated
    measures: Sequence[str]  # names that `measure` may return, but gold
    tool_tasks: Mapping[str, Callable[[int], ToolTask]]  # by name, made of a seed
    games: Mapping[str, Callable[[int], Game]]  # likewise

    def parse(self, prompt: str) -> WorldPrompt | None:
        """The prompt's record; None where the text is no prompt of this world."""

    def judge(self, prompt: WorldPrompt | str, completion: str) -> Verdict:
        """The features of a completion. Raises ValueError where the prompt is not of this world, as do all below."""

    def gold(self, prompt: WorldPrompt | str, completion: str) -> float:
        """The true reward of a completion."""

    def measure(self, prompts: Sequence[WorldPrompt | str], completions: Sequence[str]) -> dict[str, float]:
        """The mean gold reward as `gold`, and those of `measures` that some prompt is about."""

    def counts(self, prompts: Sequence[WorldPrompt | str]) -> dict[str, int]:
        """How many of the prompts each measure is about, gold included."""

    def consistency(
        self, prompts: Sequence[WorldPrompt | str], completions: Sequence[str], samples: int
    ) -> float:
        """The share of equally good pairs of completions of one prompt; its `samples` completions are adjacent."""

    def statements(self, text: str) -> tuple[int, int]:
        """(how many statements of a text about the world are right, how many are wrong)."""


def get(name: str = EMBEDDED) -> World:
    """The world of this name. Raises ValueError where there is none."""
    if name != EMBEDDED:
        raise ValueError(f"no world {name!r}; there is {EMBEDDED}")
    from jaxtrain.worlds.tinytown.world import TinytownWorld  # its lexicon loads NumPy, which flags need not

    return TinytownWorld()


def world_of(kinds: Iterable[str]) -> World | None:
    """The world that all data sources of these kinds are of; None where one of them is of none."""
    return get() if set(kinds) == {EMBEDDED} else None


def world_of_prompt(prompt: str) -> World | None:
    """The world that knows this prompt; None where none does."""
    world = get()
    return None if world.parse(prompt) is None else world
