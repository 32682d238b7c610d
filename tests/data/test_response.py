"""Thoughts and answers of texts in the formats of today's models."""

import pytest

from jaxtrain.data.response import MARKS, split_thought

HARMONY = (
    "<|channel|>analysis<|message|>Add them.<|end|><|start|>assistant<|channel|>analysis<|message|>Seven.<|end|>"
    "<|start|>assistant<|channel|>final<|message|>It is 7.<|return|>"
)
CALL = '<|start|>assistant<|channel|>commentary to=functions.add <|constrain|>json<|message|>{"a": 3}<|call|>'


@pytest.mark.parametrize("marks", MARKS, ids=lambda marks: marks.start)
def test_a_thought_at_the_beginning_is_apart_from_the_answer(marks):
    text = f"{marks.start}\n3 + 4 is 7.\n{marks.end}\n\n{marks.answer_start}It is 7.\n\nReally.{marks.answer_end}"
    assert split_thought(text) == ("3 + 4 is 7.", "It is 7.\n\nReally.")
    assert split_thought(f"\n {text}", opened=True) == ("3 + 4 is 7.", "It is 7.\n\nReally.")
    assert split_thought(text.removeprefix(marks.start), opened=True) == (
        "3 + 4 is 7.",
        "It is 7.\n\nReally.",
    )
    assert split_thought(f"{marks.start}3 + 4 is") == ("3 + 4 is", "")


@pytest.mark.parametrize("text", [
    "It is 7.\n", "  indented\n", "", "Write <think>so</think> to think.", "```\n<think>\nhm\n</think>\n```\n",
    "</think> ends a thought.", "3 < think > 4", "analysis: 7",
])  # fmt: skip
def test_a_text_without_a_thought_is_an_answer_to_the_letter(text):
    assert split_thought(text) == split_thought(text, None) == ("", text)


@pytest.mark.parametrize("text, thought, answer", [
    ("<think>\n\n</think>\n\nHi", "", "Hi"),
    ("<think></think>Hi ", "", "Hi "),
    ("<think>a <think> b</think>Write </think> yourself.", "a <think> b", "Write </think> yourself."),
    ("<think>a</think>\n```\n<think>b</think>\n```", "a", "```\n<think>b</think>\n```"),
    ("<thinking>a</think>b</thinking>c", "a</think>b", "c"),
])  # fmt: skip
def test_the_first_end_of_the_same_kind_counts(text, thought, answer):
    assert split_thought(text) == (thought, answer)


def test_a_thought_that_the_prompt_opened():
    assert split_thought("hm\n</think>\n\nYes", opened=True) == ("hm", "Yes")
    assert split_thought("hm [/THINK] Yes </think>", opened=True) == ("hm", "Yes </think>")
    assert split_thought("still at it ", opened=True) == ("still at it", "")
    # An endpoint's template may have opened it, and nothing says so but the end.
    assert split_thought("hm\n</think>\n\nYes", None) == ("hm", "Yes")
    assert split_thought("hm\n</think>\n\nYes") == ("", "hm\n</think>\n\nYes")
    assert split_thought("Use </think> and\n</think>\nYes", None) == ("", "Use </think> and\n</think>\nYes")


def test_channels_of_the_harmony_format():
    assert split_thought(HARMONY) == ("Add them.\n\nSeven.", "It is 7.")
    assert split_thought(
        HARMONY.removeprefix("<|channel|>analysis<|message|>"), opened=True
    ) == split_thought(HARMONY)
    assert split_thought("<|channel|>final<|message|>It is 7.") == ("", "It is 7.")
    assert split_thought("<|channel|>analysis<|message|>Add th") == ("Add th", "")
    call = f"<|channel|>analysis<|message|>Add.<|end|>{CALL}"
    assert split_thought(call) == ("Add.", CALL)
