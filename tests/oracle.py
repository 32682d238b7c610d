"""Tinytown's oracle as a model that continues pages: it critiques, revises and chooses as the world's truth says."""

import math
import re

from jaxtrain.inference.llm import LLM, Completion, TokenLogprob, Usage
from jaxtrain.worlds.tinytown.answers import TownStyle, draw_answer, render
from jaxtrain.worlds.tinytown.constitution import PRINCIPLES, critique_revise, violates
from jaxtrain.worlds.tinytown.draws import RandomDraws, stream
from jaxtrain.worlds.tinytown.prompts import parse_prompt, space

_PAGE = re.compile(r"Human: (?P<prompt>[^\n]*)\nAI: ?(?P<response>.*?)\nCritic: (?P<rest>.*)", re.DOTALL)
_CHOICE = re.compile(
    r"Human: (?P<prompt>.*)\n(?P<question>.*)\n\(A\) (?P<a>.*)\n\(B\) (?P<b>.*)\n(?:Critic:.*\n)?The answer is: \("
)


def complies(question, seed):
    """An answer that helps, as a helpful-only model's."""
    rng = RandomDraws(stream(seed, "complies"), 0)
    return render(
        parse_prompt(question),
        draw_answer(
            rng,
            parse_prompt(question),
            TownStyle(detail=0.3, refuse=0.0, evade=0.0, rude=0.0, wrong=0.0),
            space(),
        ),
    )


def said(page):
    """What the oracle writes after a page."""
    found = _PAGE.fullmatch(page)
    rest = found["rest"].removesuffix("\nRevision:")
    principle = next(one for one in PRINCIPLES if rest.startswith(one.request))
    critique, revision = critique_revise(found["prompt"], found["response"], principle.target)
    return f" {revision if page.endswith('Revision:') else critique}"


def chosen(page):
    """P(A) by the oracle: .9 for the answer that alone keeps the principle, else .5."""
    found = _CHOICE.fullmatch(page)
    target = next(one.target for one in PRINCIPLES if one.comparison == found["question"])
    bad = [violates(found["prompt"], found[name], target) for name in ("a", "b")]
    return 0.5 + 0.4 * (bad[1] - bad[0])


def oracle(answer=None, letter=chosen, change=lambda text: Completion(text, "stop")):
    """A generator: `answer` says what it answers to a question, `change` what becomes of a critique or revision."""

    def reply(ask):
        text = ask.messages[-1]["content"]
        if not ask.raw:
            return [Completion(answer(text, ask.seed + g), "stop") for g in range(ask.samples)]
        if text.endswith("Critic:"):
            return [Completion(" one helps a crime.", "stop")]
        if not ask.top_logprobs:
            return [change(said(text))]
        a = letter(text)
        top = (("A", math.log(a)), ("B", math.log(1 - a)), ("the", -9.0))
        return [
            Completion(
                "A" if a >= 0.5 else "B", "length", (TokenLogprob("A" if a >= 0.5 else "B", 0.0, top),)
            )
        ]

    return LLM("oracle", lambda asks: [reply(ask) for ask in asks], True, Usage())
