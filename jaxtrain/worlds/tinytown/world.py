"""Tinytown behind the protocol of `jaxtrain.worlds`."""

import re
from functools import cache

from jaxtrain.worlds.tinytown import lexicon as lex
from jaxtrain.worlds.tinytown.judge import gold, judge
from jaxtrain.worlds.tinytown.measures import MEASURES, consistency, counts, measure
from jaxtrain.worlds.tinytown.prompts import parse_prompt
from jaxtrain.worlds.tinytown.tasks import GAMES, TOOL_TASKS


class TinytownWorld:
    """Tinytown as a `World`."""

    name = "tinytown"
    eval_prompts = "tinytown:prompts:test"
    measures = tuple(MEASURES)
    tool_tasks = TOOL_TASKS
    games = GAMES
    parse = staticmethod(parse_prompt)
    judge = staticmethod(judge)
    gold = staticmethod(gold)
    measure = staticmethod(measure)
    counts = staticmethod(counts)
    consistency = staticmethod(consistency)

    def statements(self, text: str) -> tuple[int, int]:
        """(right, wrong) statements about people and spellings, in the sentences that the world has for them."""
        right = wrong = 0
        for pattern, task in _sentences():
            for match in pattern.finditer(text):
                x, a = match["x"], match["a"]
                truth = (
                    lex.FACTS.get((x, task))
                    if task in lex.VALUES
                    else "-".join(x)
                    if task == "spell"
                    else x[-1]
                )
                if truth is not None and (task in lex.VALUES or x in lex.WORDS):
                    right, wrong = right + (a == truth), wrong + (a != truth)
            text = pattern.sub("", text)
        return right, wrong


@cache
def _sentences() -> tuple[tuple[re.Pattern[str], str], ...]:
    """(pattern, task) of each sentence but those of sums.

    The longest stand first, to be taken out of the text: "The pet of Dan is a duck" does not say that Dan is one.
    """
    forms = [(form, task) for task, each in lex.SENTENCES.items() if task != "sum" for form in each]
    patterns = []
    for form, task in sorted(forms, key=lambda one: -len(one[0])):
        body = re.escape(form).replace(r"\{x\}", r"(?P<x>\w{1,12})").replace(r"\{a\}", r"(?P<a>[\w-]{1,40})")
        patterns.append((re.compile(rf"\b{body}"), task))
    return tuple(patterns)
