"""Planted and labelled defects, so that a filter's precision and recall are exact."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from jaxtrain.worlds.tinytown import lexicon as lex
from jaxtrain.worlds.tinytown.configs import Pretrain
from jaxtrain.worlds.tinytown.draws import DrawWeights, RandomDraws


class Defect(NamedTuple):
    """A defective text: its label, the index of the document it repeats or -1, the data planted in it."""

    name: str
    text: str
    source: int = -1
    planted: str = ""


_BOILERPLATE = (
    "All rights reserved. Terms of use. Privacy policy.",
    "Click here to read more.",
    "Share this page. Like this page. Follow us.",
    "This page uses cookies. Accept all cookies.",
    "Home | News | Shop | Contact | Log in",
    "Loading, please wait.",
)
_SPAM = (
    "BUY A {upper} NOW!!! Only ${n} today!!! Visit www.{lower}{n}.example",
    "Cheap {lower} deals! {n}% off! Click www.best-{lower}.example now!!!",
    "WIN a free {lower}!!! Send ${n} to www.win-{lower}.example to claim your prize!!!",
)


@cache
def _kinds(config: Pretrain) -> tuple[tuple[str, ...], DrawWeights]:
    shares = {name: share for name, share in config.defects().items() if share > 0}
    clean = 1.0 - sum(shares.values())
    if clean > 1e-12:
        shares[""] = clean
    return tuple(shares), DrawWeights(tuple(shares.values()))


@cache
def _zipf(count: int) -> DrawWeights:
    return DrawWeights([1.0 / rank for rank in range(1, count + 1)])


def plant(config: Pretrain, rng: RandomDraws, text: str, original: Callable[[int], str]) -> Defect | None:
    """The defect that takes the place of a clean `text`, or None; `original(i)` is the text of document i."""
    names, weights = _kinds(config)
    name = names[rng.weighted(weights)]
    if not name:
        return None
    if name in ("dup", "near_dup"):
        source = rng.weighted(_zipf(config.originals))
        copied = original(source)
        if name == "dup":
            return Defect("duplicate", copied, source)
        return Defect("near_duplicate", _edit(rng, copied), source)
    if name == "pii":
        datum, sentence = _personal(rng)
        return Defect("pii", f"{text}\n{sentence}", planted=datum)
    if name == "spam":
        thing = rng.choice(lex.OBJECTS)
        form = rng.choice(_SPAM)
        return Defect("spam", form.format(upper=thing.upper(), lower=thing, n=1 + rng.pick(99)))
    if rng.flag(0.5):
        return Defect("shuffled", _shuffle(rng, text))
    return Defect("boilerplate", "\n".join(rng.choice(_BOILERPLATE) for _ in range(2 + rng.pick(3))))


def _edit(rng: RandomDraws, text: str) -> str:
    """The text with one word dropped, doubled or replaced."""
    words = text.split(" ")
    at = rng.pick(len(words))
    words[at : at + 1] = ([], [words[at]] * 2, [f"{words[at]}-{rng.choice(lex.OBJECTS)}"])[rng.pick(3)]
    return " ".join(words)


def _shuffle(rng: RandomDraws, text: str) -> str:
    letters = list(text)
    for last in range(len(letters) - 1, 0, -1):
        at = rng.pick(last + 1)
        letters[last], letters[at] = letters[at], letters[last]
    return "".join(letters)


def _personal(rng: RandomDraws) -> tuple[str, str]:
    """(datum, sentence): names, numbers and addresses from the ranges reserved for documentation."""
    person, n = rng.choice(lex.PEOPLE), rng.pick(100)
    datum, sentence = (
        (f"{person.lower()}{n}@example.com", "Write to {}."),
        (f"202-555-01{n:02d}", "Call {} to ask."),
        (f"203.0.113.{n}", "My server is {}."),
    )[rng.pick(3)]
    return datum, sentence.format(datum)
