"""Annotators: Bradley-Terry choosers who follow the gold reward, or also the taste of a group."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from jaxtrain.worlds.tinytown import lexicon as lex
from jaxtrain.worlds.tinytown.answers import STEPS, parse_answer
from jaxtrain.worlds.tinytown.draws import RandomDraws
from jaxtrain.worlds.tinytown.judge import as_prompt, gold
from jaxtrain.worlds.tinytown.prompts import TownPrompt

# What a group adds to gold: for a numbered list, and for each 100 bytes. No group has no taste of its own.
TASTES: Mapping[str, Mapping[str, float]] = {
    "A": {"numbered": 1.5, "length": 1.0},
    "B": {"numbered": -1.5, "length": -2.0},
}


@dataclass(frozen=True)
class Annotator:
    """Prefers a to b with probability σ((u(a) - u(b)) / temperature), u being gold plus the group's taste."""

    temperature: float
    group: str = ""

    def utility(self, prompt: TownPrompt | str, text: str) -> float:
        return gold(prompt, text) + self.taste(prompt, text)

    def taste(self, prompt: TownPrompt | str, text: str) -> float:
        """What the group's style preferences add to the gold reward."""
        if not self.group:
            return 0.0
        prompt = as_prompt(prompt)
        taste = TASTES[self.group]
        answer = parse_answer(prompt, text)
        numbered = (
            answer is not None and answer.kind == STEPS and answer.detail and answer.template == lex.NUMBERED
        )
        return taste["numbered"] * numbered + taste["length"] * len(text.encode()) / 100

    def p_over(self, margin: float) -> float:
        """The probability of choosing a text whose utility is greater by `margin`."""
        return 0.5 * (1.0 + math.tanh(margin / self.temperature / 2))

    def p_prefers(self, prompt: TownPrompt | str, a: str, b: str) -> float:
        """The probability of choosing `a` over `b`."""
        prompt = as_prompt(prompt)
        return self.p_over(self.utility(prompt, a) - self.utility(prompt, b))

    def choose(self, draws: RandomDraws, prompt: TownPrompt | str, a: str, b: str) -> bool:
        """One noisy judgement: True for `a`."""
        return draws.flag(self.p_prefers(prompt, a, b))
