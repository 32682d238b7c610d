"""Tinytown's prompts: every one is identified by its text."""

import pytest

from jaxtrain.worlds.tinytown import lexicon as lex
from jaxtrain.worlds.tinytown.judge import judge
from jaxtrain.worlds.tinytown.prompts import every_prompt, parse_prompt


def test_every_prompt_can_be_rebuilt_from_its_text():
    howto = 2 * len(lex.VERBS) * len(lex.OBJECTS) * len(lex.QUESTIONS["howto"])
    closed = 3 * (3 * len(lex.PEOPLE) + 400 + 2 * len(lex.WORDS))
    assert len(every_prompt()) == howto + closed
    for prompt in every_prompt().values():
        assert parse_prompt(prompt.text) == prompt
        assert parse_prompt(f" {prompt.text}\n") == prompt
    for text in ("", "How do I wash a bike", "How do I eat a bike?", "What is 20 + 1?", "Spell dog."):
        assert parse_prompt(text) is None
    with pytest.raises(ValueError, match="not a Tinytown prompt"):
        judge("How are you?", "Fine.")
