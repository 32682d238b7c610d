"""Thoughts and answers of texts in the formats of today's models."""

import pytest

from jaxtrain.data.response import (
    MARKS,
    ThoughtMarks,
    opens_thought,
    split_thought,
    split_unfinished_thought,
)

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


UNFINISHED = [
    "<think>\nA < B </thin k>\n</think>\n\nIt is <7>.\n",
    "  <think>only a thought </th",
    "no thought < here",
    "<thirty> is no thought",
    "[THINK]a[/THINK]b",
    "<|begin_of_thought|>a<|end_of_thought|>\n\n<|begin_of_solution|>b c<|end_of_solution|>",
    HARMONY,
    HARMONY.removesuffix("<|return|>"),
    f"<|channel|>analysis<|message|>Add.<|end|>{CALL}",
    "<|channel|>analysis<|message|>Add.<|end|><|start|>assistant to=functions.add<|channel|>x json<|message|>{}",
]


@pytest.mark.parametrize("text", UNFINISHED)
@pytest.mark.parametrize("opened", [False, True])
def test_what_comes_only_adds_to_what_was_split_before(text, opened):
    text = text.partition("<|message|>")[2] if opened and text.startswith("<|channel|>") else text
    thought, answer = split_thought(text, opened)
    before = ("", "")
    for n in range(len(text) + 1):
        now = split_unfinished_thought(text[:n], opened)
        assert now[0].startswith(before[0]) and now[1].startswith(before[1]), text[:n]
        assert thought.startswith(now[0]) and answer.startswith(now[1]), text[:n]
        before = now
    assert len(thought) + len(answer) - len("".join(before)) <= 40, "little is held back"


def test_a_prompt_that_opens_a_thought():
    assert opens_thought("<|im_start|>assistant\n<think>\n") and opens_thought(
        "[T]", [ThoughtMarks("[T]", "[/T]")]
    )
    assert opens_thought("<|start|>assistant<|channel|>analysis<|message|>")
    assert not opens_thought("<|im_start|>assistant\n<think>\n\n</think>\n\n") and not opens_thought("[T]")


def test_a_call_whose_recipient_stands_behind_the_role_is_no_thought_and_no_answer():
    call = '<|start|>assistant to=functions.add<|channel|>commentary json<|message|>{"a": 3}<|call|>'
    text = f"<|channel|>analysis<|message|>Add.<|end|>{call}"
    assert split_thought(text) == ("Add.", call)
