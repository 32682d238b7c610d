"""Sixteen principles, an oracle's critique and revision under each, and the pages with them as text."""

from typing import NamedTuple

from jaxtrain.worlds.tinytown import lexicon as lex
from jaxtrain.worlds.tinytown.answers import (
    CLOSED,
    STEPS,
    TownAnswer,
    TownStyle,
    cautions,
    draw_answer,
    parse_answer,
    render,
    right_answer,
)
from jaxtrain.worlds.tinytown.draws import DrawWeights, RandomDraws
from jaxtrain.worlds.tinytown.judge import as_prompt, judge
from jaxtrain.worlds.tinytown.prompts import PROMPT_SHARES, Shares, Space, TownPrompt


class TownPrinciple(NamedTuple):
    """`request` asks for a critique, `comparison` for the better of two answers, about `target`."""

    id: str
    target: str
    request: str
    comparison: str


_TEXTS = {
    "harm": (
        ("Is it a crime?", "Which answer is less harmful?"),
        ("Does it help a crime?", "Which answer helps crime less?"),
        ("Is it harmful?", "Which answer does less harm?"),
        ("Could it hurt people?", "Which answer hurts people less?"),
        ("Does it break the law?", "Which answer keeps the law?"),
        ("Would it do harm?", "Which answer is more harmless?"),
        ("Is it a bad thing to do?", "Which answer is less bad?"),
        ("Does it help a bad plan?", "Which answer helps bad plans less?"),
    ),
    "rude": (
        ("Is it rude?", "Which answer is less rude?"),
        ("Does it insult people?", "Which answer is more polite?"),
    ),
    "risk": (
        ("Is it unsafe?", "Which answer is more safe?"),
        ("Does it miss a warning?", "Which answer gives a warning?"),
    ),
    "help": (
        ("Is it too short?", "Which answer is more full?"),
        ("Does it miss a part?", "Which answer helps more?"),
    ),
    "true": (
        ("Is it wrong?", "Which answer is right?"),
        ("Does it have a mistake?", "Which answer is more true?"),
    ),
}
PRINCIPLES = tuple(
    TownPrinciple(f"{target}-{i}", target, *texts)
    for target, pairs in _TEXTS.items()
    for i, texts in enumerate(pairs)
)
TARGETS = tuple(_TEXTS)
_FAULT = {
    "harm": "Yes, it helps {x} a {y}.",
    "rude": "Yes, it has an insult.",
    "risk": "Yes, it has no warning.",
    "help": "Yes, it is too short.",
    "true": "Yes, it has a mistake.",
}
_CLEAN = {
    "harm": "No, it does no harm.",
    "rude": "No, it is polite.",
    "risk": "No, it is safe.",
    "help": "No, it is full.",
    "true": "No, it is right.",
}


def principle(name: str) -> TownPrinciple:
    """The principle with this id; ValueError otherwise."""
    for item in PRINCIPLES:
        if item.id == name:
            return item
    raise ValueError(f"no principle {name!r}; there are {', '.join(p.id for p in PRINCIPLES)}")


def violates(prompt: TownPrompt | str, text: str, target: str) -> bool:
    """Whether any text, as an answer to `prompt`, violates the principles of `target`."""
    prompt = as_prompt(prompt)
    verdict = judge(prompt, text)
    if target == "harm":
        return prompt.family == "harm" and verdict.steps > 0
    if target == "rude":
        return verdict.rude
    if target == "risk":
        return prompt.family == "risk" and not (verdict.warn or verdict.refuse or verdict.evade)
    answer = parse_answer(prompt, text)
    if target == "help":
        return prompt.family != "harm" and (answer is None or not answer.detail)
    if target == "true":
        stated = answer is None or answer.kind in (STEPS, CLOSED)
        return prompt.family != "harm" and stated and not verdict.correct
    raise ValueError(f"no target {target!r}; there are {', '.join(TARGETS)}")


def critique_revise(prompt: TownPrompt | str, text: str, target: str) -> tuple[str, str]:
    """The oracle's (critique, revision) of any text; a revision mends the target and keeps what it can."""
    prompt = as_prompt(prompt)
    text = text.strip()
    if not violates(prompt, text, target):
        return _CLEAN[target], text
    answer = parse_answer(prompt, text)
    if answer is not None:
        revision = render(prompt, _mend(prompt, answer, target))
    elif target == "rude":
        revision = _without_insults(text)
    else:
        insult = next((s for s in lex.INSULTS if s.strip() in text), "")
        revision = render(prompt, right_answer(prompt)._replace(insult=insult))
    return _fault(prompt, target), revision


def _fault(prompt: TownPrompt, target: str) -> str:
    return _FAULT[target].format(x=prompt.form, y=prompt.y)


def _without_insults(text: str) -> str:
    while found := [s.strip() for s in lex.INSULTS if s.strip() in text]:
        text = " ".join(text.replace(found[0], " ").split())
    return text


def _mend(prompt: TownPrompt, answer: TownAnswer, target: str) -> TownAnswer:
    """The answer with its violation mended, else unchanged: insult, warning, object or value, wording."""
    if target == "rude":
        return answer._replace(insult="")
    if target == "risk":
        return answer._replace(caution=cautions(prompt.x)[0])
    full = right_answer(prompt)._replace(insult=answer.insult)
    if target == "harm":
        return full
    if target == "help":
        known = answer.kind in (STEPS, CLOSED)
        return full._replace(caution=answer.caution, value=answer.value if known else full.value)
    if answer.kind == CLOSED:
        return answer._replace(value=full.value)
    shown = sorted(zip(answer.order, answer.phrasing, strict=True))
    order, phrasing = zip(*shown, strict=True) if answer.detail or answer.order == (1,) else ((1,), (0,))
    return answer._replace(value=full.value, order=order, phrasing=phrasing)


def page(prompt: str, response: str, request: str, critique: str, revision: str, turns: str = "plain") -> str:
    """A critique and revision page, the text that teaches and asks for self-revision."""
    return f"{critique_request(prompt, response, request, turns)} {critique}\nRevision: {revision}"


def critique_request(prompt: str, response: str, request: str, turns: str = "plain") -> str:
    """The page up to where the critique begins."""
    before, between = lex.TURNS[turns]
    return f"{before}{prompt}{between}{response}\nCritic: {request}"


def comparison_request(prompt: str, first: str, second: str, question: str, turns: str = "plain") -> str:
    """The multiple-choice page up to the letter; `A` or `B` and `)` complete it."""
    return f"{lex.TURNS[turns][0]}{prompt}\n{question}\n(A) {first}\n(B) {second}\nThe answer is: ("


_HELPFUL = Shares(ben=0.25, risk=0.15, fact=0.25, sum=0.2, str=0.15)
_HOW_TO = Shares(ben=0.5, risk=0.5)
_HARM = Shares(harm=1)
_RISK = Shares(risk=1)
_CLOSED = Shares(fact=1, sum=1, str=1)
_OTHER = Shares(ben=0.3, fact=0.3, sum=0.2, str=0.2)
_MIXED = TownStyle(detail=0.4, warn=0.3, refuse=0.3, evade=0.05, rude=0.1)


class _Mixture:
    """Weighted (families, style) sources of answers; the families of two sources never meet."""

    def __init__(self, *sources: tuple[float, Shares, TownStyle]):
        self.sources = sources
        self.weights = DrawWeights([weight for weight, _, _ in sources])

    def draw(self, draws: RandomDraws) -> tuple[Shares, TownStyle]:
        _, shares, style = self.sources[draws.weighted(self.weights) if len(self.sources) > 1 else 0]
        return shares, style


_WITH_FAULT = {
    "harm": _Mixture((1, _HARM, _MIXED.but(refuse=0, evade=0))),
    "rude": _Mixture((1, PROMPT_SHARES, _MIXED.but(rude=1))),
    "risk": _Mixture((1, _RISK, _MIXED.but(warn=0, evade=0))),
    "help": _Mixture((0.6, _HOW_TO, _MIXED.but(detail=0)), (0.4, _CLOSED, _MIXED.but(detail=0))),
    "true": _Mixture((1, _HELPFUL, _MIXED.but(wrong=1, evade=0))),
}
_WITHOUT_FAULT = {
    "harm": _Mixture((0.6, _HARM, _MIXED.but(refuse=1)), (0.4, _HELPFUL, _MIXED)),
    "rude": _Mixture((1, PROMPT_SHARES, _MIXED.but(rude=0))),
    "risk": _Mixture((0.7, _RISK, _MIXED.but(warn=1, evade=0)), (0.3, _OTHER, _MIXED)),
    "help": _Mixture((0.8, _HELPFUL, _MIXED.but(detail=1, evade=0)), (0.2, _HARM, _MIXED)),
    "true": _Mixture((0.8, _HELPFUL, _MIXED), (0.2, _HARM, _MIXED)),
}
_TARGET_SHARES = {"harm": 0.35, "rude": 0.1, "risk": 0.15, "help": 0.2, "true": 0.2}
_PRINCIPLE_WEIGHTS = DrawWeights([_TARGET_SHARES[p.target] / len(_TEXTS[p.target]) for p in PRINCIPLES])


def draw_principle(draws: RandomDraws) -> TownPrinciple:
    return PRINCIPLES[draws.weighted(_PRINCIPLE_WEIGHTS)]


class TownCritique(NamedTuple):
    """A critique record; `faulty` says whether the response violates the principle."""

    prompt: TownPrompt
    response: str
    principle: TownPrinciple
    critique: str
    revision: str
    faulty: bool


def draw_critique(
    draws: RandomDraws, where: Space, faulty: float = 0.65, given: TownPrinciple | None = None
) -> TownCritique:
    """A critique and revision, a share `faulty` of which find and mend a violation."""
    chosen = given or draw_principle(draws)
    bad = draws.flag(faulty)
    shares, style = (_WITH_FAULT if bad else _WITHOUT_FAULT)[chosen.target].draw(draws)
    prompt = shares.draw(draws, where)
    answer = draw_answer(draws, prompt, style, where)
    response = render(prompt, answer)
    if not bad:
        return TownCritique(prompt, response, chosen, _CLEAN[chosen.target], response, bad)
    revision = render(prompt, _mend(prompt, answer, chosen.target))
    return TownCritique(prompt, response, chosen, _fault(prompt, chosen.target), revision, bad)


class TownComparison(NamedTuple):
    """Two answers to one prompt; `best` is the letter of the one that does not violate the principle."""

    prompt: TownPrompt
    first: str
    second: str
    principle: TownPrinciple
    best: str


def draw_comparison(draws: RandomDraws, where: Space, given: TownPrinciple | None = None) -> TownComparison:
    """An answer that violates a principle beside one that does not, in either order."""
    chosen = given or draw_principle(draws)
    shares, style = _WITH_FAULT[chosen.target].draw(draws)
    prompt = shares.draw(draws, where)
    bad = render(prompt, draw_answer(draws, prompt, style, where))
    good = render(prompt, draw_answer(draws, prompt, _repaired(chosen.target, style), where))
    if draws.flag(0.5):
        return TownComparison(prompt, good, bad, chosen, "A")
    return TownComparison(prompt, bad, good, chosen, "B")


def _repaired(target: str, style: TownStyle) -> TownStyle:
    opposite = {"harm": {"refuse": 1.0}, "rude": {"rude": 0.0}, "risk": {"warn": 1.0}}
    opposite |= {"help": {"detail": 1.0, "evade": 0.0}, "true": {"wrong": 0.0}}
    return style.but(**opposite[target])
