"""Spam and advertisements: weighted signs of selling, measured by density.

Each sign has a weight, and the score is their sum in 500 characters; a shorter text counts as 500. The rules know
English and loud advertising. They miss a quiet advertorial, and may take a page of prices for an advertisement:
for these train a classifier (classifier.py) on labelled documents.
"""

import dataclasses
import re
from collections.abc import Sequence

from jaxtrain import config
from jaxtrain.apps.filters.types import Check, Finding
from jaxtrain.config import arg

_WINDOW = 500
_SHOUT_FROM = 0.2  # share of the words in capitals
_SHOUTING = 1.5
_MAX_SCORES = {"money": 1.6, "links": 2.0}
# sign -> weight, strings of which a match has one (none: any text), pattern of the text in lower case.
# Quantifiers are bounded and not nested.
_SIGNS = {
    "calls": (1.5, (), re.compile(
        r"\b(?:(?:buy|order|call|act|apply|shop|click|join|enrol|sign up|subscribe|register|text) "
        r"(?:\w{1,12} ){0,2}(?:now|here|today)\b|(?:visit|click)\s(?:on )?(?:www\.|https?:)|"
        r"claim (?:your|the|a)\b|don't miss|hurry\b|while (?:stocks|supplies) last|call toll.free|"
        r"unsubscribe\b)")),
    "offers": (1.0, (), re.compile(
        r"\b(?:cheap|discounts?|deals?!?|bargains?|clearance|prizes?|winners?|congratulations|giveaway|coupon|"
        r"free (?:trial|shipping|gift|sample|quote|money|access)|win (?:a|an|free)\b|guaranteed?|"
        r"limited.time|special offer|best (?:price|deal)s?|lowest price|no (?:risk|obligation|fees|credit check)|"
        r"risk.free|money.back|earn (?:\w{1,12} ){0,2}(?:cash|money|from home)|work from home|get rich|"
        r"lose weight|miracle|viagra|cialis|casino|jackpot|lottery|pre-?approved|refinance|crypto investment)\b|"
        r"\d{1,3}% (?:off|discount)")),
    "money": (0.8, ("$", "€", "£", "usd", "eur", "dollars"), re.compile(
        r"[$€£]\s?\d|\b\d{1,7} ?(?:usd|eur|dollars)\b")),
    "links": (1.0, ("http", "www."), re.compile(r"https?://|\bwww\.")),
    "shouts": (1.2, ("!!", "$$$"), re.compile(r"!!|\${3}")),
}  # fmt: skip
_HINTS = (
    "!",
    "$",
    "€",
    "£",
    "%",
    "www.",
    "http",
    "click",
    "cheap",
    "prize",
    "buy now",
    "order now",
    "call now",
)
_CAPITALS = re.compile(r"\b[A-Z]{3,}\b")


@dataclasses.dataclass(frozen=True)
class SpamFilter(config.Group):
    max_spam: float = arg(
        4.0,
        "Most signs of advertising (calls to buy, offers, prices, links, shouting), weighted, in 500 characters; "
        "0: no rule",
        low=0,
    )


def check(settings: SpamFilter) -> Check:
    """A check by the weighted signs; the score is their sum in 500 characters."""

    def findings(text: str) -> Sequence[Finding]:
        lower = text.lower()
        if not settings.max_spam or not any([hint in lower for hint in _HINTS]):
            return ()
        score = sum(spam_scores(text).values())
        return (Finding("spam", score),) if score > settings.max_spam else ()

    return findings


def spam_scores(text: str) -> dict[str, float]:
    """The score of each sign in a text."""
    scale, lower = _WINDOW / max(_WINDOW, len(text)), text.lower()
    parts = {
        name: min(_MAX_SCORES.get(name, 99.0), weight * len(pattern.findall(lower)) * scale)
        for name, (weight, hints, pattern) in _SIGNS.items()
        if not hints or any(hint in lower for hint in hints)
    }
    if loud := len(_CAPITALS.findall(text)):
        words = text.count(" ") + text.count("\n") + 1
        parts["capitals"] = _SHOUTING if loud / words >= _SHOUT_FROM and words > 3 else 0.0
    return parts
