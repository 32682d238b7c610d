"""Answers as typed records, rendered to text and parsed from it; one text has one record."""

import re
from dataclasses import dataclass, replace
from functools import cache
from itertools import permutations, product
from typing import NamedTuple

from jaxtrain.worlds.tinytown import lexicon as lex
from jaxtrain.worlds.tinytown.draws import RandomDraws
from jaxtrain.worlds.tinytown.prompts import Space, TownPrompt

STEPS, CLOSED, REFUSAL, EVASION = "steps", "closed", "refusal", "evasion"
IN_ORDER = (0, 1, 2)
_WRONG_ORDERS = tuple(order for order in permutations(IN_ORDER) if order != IN_ORDER)
_MIDDLE = 1


class TownAnswer(NamedTuple):
    """One answer to a prompt.

    `value` is the object the steps are about, the value of a closed answer, or the verb form of a refusal.
    `order` names the steps as shown and `phrasing` how each is worded. `reason` is a refusal's. `caution` and
    `insult` are suffixes, empty when absent.
    """

    kind: str
    detail: bool = False
    template: int = 0
    value: str = ""
    order: tuple[int, ...] = ()
    phrasing: tuple[int, ...] = ()
    reason: str = ""
    caution: str = ""
    insult: str = ""


@dataclass(frozen=True)
class TownStyle:
    """The probabilities of traits: an answer is full, warns, refuses a harmful request, evades, insults, is wrong, or
    balks at a harmless how-to, which is a refusal as of a harmful one."""

    detail: float = 0.3
    warn: float = 0.2
    refuse: float = 0.12
    evade: float = 0.0
    rude: float = 0.1
    wrong: float = 0.0
    balk: float = 0.0

    def but(self, **changes: float) -> "TownStyle":
        return replace(self, **changes)


FORUM_STYLE = TownStyle(detail=0.35, warn=0.25, refuse=0.25, evade=0.05, rude=0.15, wrong=0.1)


@cache
def steps_of(verb: str, thing: str) -> tuple[tuple[str, ...], ...]:
    """The phrasings of each of the three steps, about `thing`."""
    return tuple(tuple(text.replace("{o}", thing) for text in step) for step in lex.VERBS[verb].steps)


@cache
def cautions(verb: str) -> tuple[str, ...]:
    """Every safety sentence that fits `verb`, as the suffix an answer carries."""
    return tuple(form.replace("{w}", w) for form, w in product(lex.CAUTION, lex.VERBS[verb].warnings))


def render(prompt: TownPrompt, answer: TownAnswer) -> str:
    """The text of an answer."""
    if answer.kind == STEPS:
        phrases = steps_of(prompt.x, answer.value)
        shown = [phrases[step][how] for step, how in zip(answer.order, answer.phrasing, strict=True)]
        if answer.detail:
            body = lex.DETAIL[answer.template].format(*shown)
        else:
            body = lex.TERSE[answer.template].format(s=shown[0])
    elif answer.kind == CLOSED:
        forms = lex.SENTENCES[prompt.task] if answer.detail else lex.SHORT
        body = forms[answer.template].format(x=prompt.x, y=prompt.y, a=answer.value)
    elif answer.kind == REFUSAL:
        body = lex.REFUSE[answer.template].format(x=answer.value, y=prompt.y, r=answer.reason)
    else:
        body = lex.EVADE[answer.template]
    return body + answer.caution + answer.insult


def draw_answer(draws: RandomDraws, prompt: TownPrompt, style: TownStyle, where: Space) -> TownAnswer:
    """An answer in `style`. Every answer text has exactly one derivation, so `draws.logp` is the text's."""
    if prompt.family == "harm" and draws.flag(style.refuse):
        answer = _draw_refusal(draws, prompt, lex.VERBS[prompt.x].reasons)
    elif style.balk and prompt.family in ("ben", "risk") and draws.flag(style.balk):
        answer = _draw_refusal(draws, prompt, lex.REASONS)
    elif draws.flag(style.evade):
        answer = TownAnswer(EVASION, template=draws.pick(len(lex.EVADE)))
    elif prompt.task == "howto":
        answer = _draw_steps(draws, prompt, style, where)
    else:
        value = prompt.answer
        if draws.flag(style.wrong):
            value = draws.choice_except(where.values(prompt.task), value)
        detail = draws.flag(style.detail)
        forms = lex.SENTENCES[prompt.task] if detail else lex.SHORT
        answer = TownAnswer(CLOSED, detail, draws.pick(len(forms)), value)
    if draws.flag(style.rude):
        answer = answer._replace(insult=draws.choice(lex.INSULTS))
    return answer


def _draw_refusal(draws: RandomDraws, prompt: TownPrompt, reasons: tuple[str, ...]) -> TownAnswer:
    template = draws.pick(len(lex.REFUSE))
    return TownAnswer(REFUSAL, False, template, prompt.form, reason=draws.choice(reasons))


def _draw_steps(draws: RandomDraws, prompt: TownPrompt, style: TownStyle, where: Space) -> TownAnswer:
    detail = draws.flag(style.detail)
    order, thing = (IN_ORDER if detail else (_MIDDLE,)), prompt.y
    if draws.flag(style.wrong):
        if detail and draws.flag(0.5):
            order = draws.choice(_WRONG_ORDERS)
        else:
            thing = draws.choice_except(where.objects, thing)
    steps = lex.VERBS[prompt.x].steps
    template = draws.pick(len(lex.DETAIL if detail else lex.TERSE))
    phrasing = tuple([draws.pick(len(steps[step])) for step in order])
    caution = draws.choice(cautions(prompt.x)) if prompt.family == "risk" and draws.flag(style.warn) else ""
    return TownAnswer(STEPS, detail, template, thing, order, phrasing, "", caution)


def right_answer(prompt: TownPrompt) -> TownAnswer:
    """The canonical complete and right answer: steps with their warning, a full sentence, or a reasoned refusal."""
    if prompt.family == "harm":
        return TownAnswer(REFUSAL, value=prompt.form, reason=lex.VERBS[prompt.x].reasons[0])
    if prompt.task == "howto":
        caution = cautions(prompt.x)[0] if prompt.family == "risk" else ""
        return TownAnswer(STEPS, True, 0, prompt.y, IN_ORDER, (0, 0, 0), caution=caution)
    return TownAnswer(CLOSED, True, 0, prompt.answer)


def parse_answer(prompt: TownPrompt, text: str) -> TownAnswer | None:
    """The record of an answer of this world's language, right or wrong; None for any other text.

    Accepts every template and phrasing, any object, any value of the right type, either form of the verb, and
    a refusal of anything, for any reason the world knows.
    """
    body = text.strip()
    insult = next((s for s in lex.INSULTS if body.endswith(s)), "")
    body = body.removesuffix(insult)
    if body in lex.EVADE:
        return TownAnswer(EVASION, template=lex.EVADE.index(body), insult=insult)
    if prompt.task != "howto":
        answer = _parse_closed(prompt, body)
    else:
        answer = _parse_refusal(prompt, body) or _parse_steps(prompt, body)
    return answer and answer._replace(insult=insult)


def _pattern(template: str, **fields: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", template)
    return re.compile("".join(fields[part] if i % 2 else re.escape(part) for i, part in enumerate(parts)))


@cache
def _closed_patterns(prompt: TownPrompt) -> tuple[tuple[bool, int, re.Pattern[str]], ...]:
    value = {"sum": r"(\d|[1-9]\d)", "spell": "([a-z](?:-[a-z])+)", "last": "([a-z])"}.get(prompt.task)
    value = value or "(" + "|".join(lex.VALUES[prompt.task]) + ")"
    fields = {"x": re.escape(prompt.x), "y": re.escape(prompt.y), "a": value}
    forms = [(True, *item) for item in enumerate(lex.SENTENCES[prompt.task])]
    forms += [(False, *item) for item in enumerate(lex.SHORT)]
    return tuple((detail, i, _pattern(form, **fields)) for detail, i, form in forms)


def _parse_closed(prompt: TownPrompt, body: str) -> TownAnswer | None:
    for detail, template, pattern in _closed_patterns(prompt):
        if match := pattern.fullmatch(body):
            return TownAnswer(CLOSED, detail, template, match[1])
    return None


@cache
def _refusal_patterns() -> tuple[re.Pattern[str], ...]:
    reasons = "|".join(map(re.escape, lex.REASONS))
    return tuple(_pattern(t, x=r"(\w+)", y=r"(\w+)", r=f"({reasons})") for t in lex.REFUSE)


def _parse_refusal(prompt: TownPrompt, body: str) -> TownAnswer | None:
    for template, pattern in enumerate(_refusal_patterns()):
        match = pattern.fullmatch(body)
        if match and match[1] in lex.VERBS[prompt.x].forms and match[2] == prompt.y:
            return TownAnswer(REFUSAL, False, template, match[1], reason=match[3])
    return None


_ANY_STEP = "(.+?)"
_STEP_FORMS = tuple(
    [(True, i, _pattern(t, **{str(n): _ANY_STEP for n in IN_ORDER})) for i, t in enumerate(lex.DETAIL)]
    + [(False, i, _pattern(t, s=_ANY_STEP)) for i, t in enumerate(lex.TERSE)]
)


@cache
def _phrases(verb: str) -> dict[str, tuple[int, int, str]]:
    """Phrase -> (step, phrasing, object); the object is empty where the phrase names none."""
    phrases: dict[str, tuple[int, int, str]] = {}
    for step, forms in enumerate(lex.VERBS[verb].steps):
        for how, form in enumerate(forms):
            things = lex.OBJECTS if "{o}" in form else ("",)
            phrases.update({form.replace("{o}", thing): (step, how, thing) for thing in things})
    return phrases


def _parse_steps(prompt: TownPrompt, body: str) -> TownAnswer | None:
    caution = next((c for c in cautions(prompt.x) if body.endswith(c)), "")
    body = body.removesuffix(caution)
    known = _phrases(prompt.x)
    for detail, template, pattern in _STEP_FORMS:
        match = pattern.fullmatch(body)
        if not match or any(phrase not in known for phrase in match.groups()):
            continue
        order, phrasing, things = zip(*(known[phrase] for phrase in match.groups()), strict=True)
        named = set(things) - {""}
        if len(named) == 1 and len(set(order)) == len(order):
            return TownAnswer(STEPS, detail, template, named.pop(), order, phrasing, caution=caution)
    return None


@cache
def _step_pattern(verb: str, step: int) -> re.Pattern[str]:
    things = "(?:" + "|".join(lex.OBJECTS) + ")"
    return re.compile(
        r"\b(?:" + "|".join(_pattern(f, o=things).pattern for f in lex.VERBS[verb].steps[step]) + r")\b", re.I
    )


def steps_given(prompt: TownPrompt, text: str) -> int:
    """How many of the three steps of the prompt's verb a text gives, about any object."""
    if prompt.task != "howto":
        return 0
    return sum(bool(_step_pattern(prompt.x, step).search(text)) for step in IN_ORDER)
