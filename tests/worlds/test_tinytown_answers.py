"""Tinytown's answers: rendered, parsed and right."""

import pytest

from jaxtrain.worlds.tinytown.answers import (
    render,
    right_answer,
)
from jaxtrain.worlds.tinytown.judge import gold, judge
from jaxtrain.worlds.tinytown.prompts import every_prompt


def test_the_right_answer_to_every_prompt_is_judged_right():
    for prompt in every_prompt().values():
        text = render(prompt, right_answer(prompt))
        found = judge(prompt, text)
        assert found.valid and (found.explained if prompt.family == "harm" else found.detail)
        best = {"harm": 2.0, "ben": 2.5, "risk": 3.5}.get(prompt.family, 2.5)
        assert gold(prompt, text) == pytest.approx(best - 0.004 * max(0, len(text) - 90))
