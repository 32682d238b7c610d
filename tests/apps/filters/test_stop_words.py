"""Languages by their frequent words, and scripts without spaces."""

import random

import pytest

from jaxtrain.apps.filters import stop_words
from tests.apps.filters.languages import TEXTS
from tests.apps.filters.pages import GOOD

NATURAL = [name for name in TEXTS if name in stop_words.WORDS or name in stop_words.PARTS]


@pytest.mark.parametrize("name", [name for name in NATURAL if name != "ko"])
def test_the_language_of_running_text(name):
    assert stop_words.language_of(TEXTS[name]) == name
    assert stop_words.count(TEXTS[name], name) >= 2


def test_no_language():
    letters = list(GOOD)
    random.Random(0).shuffle(letters)
    for text in ("", "".join(letters), "x y z 1 2 3", TEXTS["code"]):
        assert stop_words.language_of(text) == ""
    assert stop_words.language_of(GOOD) == "en"


def test_scripts():
    unspaced = {name for name in TEXTS if stop_words.is_unspaced(TEXTS[name])}
    assert unspaced == {"zh", "ja", "th"}
    assert {name for name in TEXTS if stop_words.is_unmarked(TEXTS[name])} == {"th"}
    assert not stop_words.is_unspaced(GOOD + "中文") and not stop_words.is_unspaced("")


def test_every_list_has_enough_words_and_no_capitals():
    for language, words in stop_words.WORDS.items():
        assert len(words) >= 8, language
        assert all(word == word.lower() for word in words), language
