"""Spam: on Tinytown's labels, planted spam, and texts that must pass."""

import random

from jaxtrain.apps.filters import gibberish, spam
from tests.apps.filters import planted
from tests.apps.filters.pages import GOOD
from tests.apps.filters.world import labelled

JUNK = gibberish.check(gibberish.GibberishFilter())
SPAM = spam.check(spam.SpamFilter())


def test_spam_of_tinytown():
    # A page's "click here to read more" is junk as well as a call: the junk step comes first.
    rest = [one for one in labelled() if not JUNK(one.text)]
    found = [(bool(SPAM(one.text)), one.defect == "spam") for one in rest]
    right = sum(hit and wanted for hit, wanted in found)
    assert right / sum(hit for hit, _ in found) >= 0.95
    assert right / sum(one.defect == "spam" for one in labelled()) >= 0.95


def test_planted_spam_and_what_is_none():
    rng = random.Random(1)
    assert sum(bool(SPAM(planted.spam(rng))) for _ in range(200)) == 200
    for text in (
        GOOD,
        "The budget asks for $5 million for roads, $12 million for schools and $3.5 billion for the army. "
        * 3,
        "We had to buy a new pump today. It was cheap, and it broke within the week!",
        "See https://example.org/a and https://example.org/b for the proofs.",
        "WARNING: THE PUMP MUST NOT RUN DRY.",
    ):
        assert not SPAM(text), (text, spam.spam_scores(text))
    assert not spam.check(spam.SpamFilter(max_spam=0.0))(planted.spam(rng))
