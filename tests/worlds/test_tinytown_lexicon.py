"""Tinytown's lexicon: phrases identify what they are of."""

from jaxtrain.worlds.tinytown import lexicon as lex
from jaxtrain.worlds.tinytown.answers import (
    steps_of,
)


def test_middle_steps_name_the_object_and_phrases_tell_the_step():
    for name, verb in lex.VERBS.items():
        assert all("{o}" in phrase for phrase in verb.steps[1])
        phrases = [phrase for step in steps_of(name, "bike") for phrase in step]
        assert len(set(phrases)) == len(phrases)
    forms = [form for verb in lex.VERBS.values() for form in verb.forms]
    assert len(set(forms)) == len(forms)
