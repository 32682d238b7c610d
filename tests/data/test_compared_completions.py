"""Comparisons from records of the shapes that public data sets have: each field read, or listed as not used."""

import pytest

from jaxtrain.data import record_formats
from jaxtrain.data.messages import BadRecord
from tests.data.test_conversations import read as read_as
from tests.data.test_conversations import spelt

ASK, GOOD, POOR = (
    {"role": r, "content": c} for r, c in (("user", "q"), ("assistant", "a"), ("assistant", "b"))
)
SYSTEM = {"role": "system", "content": "s"}
EARLIER = [{"role": "user", "content": "p"}, {"role": "assistant", "content": "o"}]
CALL = {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {}}]}
TOOL = {"type": "function", "function": {"name": "f"}}


def read(record):
    return read_as(record, record_formats.COMPARED)


SHAPES = {  # name: record, prompt, completions, fields that are not used
    "orca": (
        {"system": "s", "question": "q", "chosen": "a", "rejected": "b"},
        ("s(s)u(q)", ("a", "b"), []),
    ),
    "scored": (
        {"instruction": "q", "chosen_response": "a", "rejected_response": "b", "chosen_rating": 5.0},
        ("u(q)", ("a", "b"), ["chosen_rating"]),
    ),
    "Stack Exchange": (
        {"qid": 1, "question": "q", "response_j": "a", "response_k": "b"},
        ("u(q)", ("a", "b"), ["qid"]),
    ),
    "Alpaca's fields": (
        {"instruction": "q", "input": "i", "chosen": "a", "rejected": "b", "history": [["x", "y"]]},
        ("u(x)a(y)u(q\n\ni)", ("a", "b"), []),
    ),
    "UltraFeedback, binarized": (
        {
            "prompt": "q",
            "messages": [ASK, GOOD],
            "chosen": [ASK, GOOD],
            "rejected": [ASK, POOR],
            "score_chosen": 8,
        },
        ("u(q)", ("a", "b"), ["messages", "score_chosen"]),
    ),
    "whole conversations with a system message": (
        {"prompt": "q", "chosen": [SYSTEM, ASK, GOOD], "rejected": [SYSTEM, ASK, POOR]},
        ("s(s)u(q)", ("a", "b"), []),
    ),
    "whole conversations of which prompt is the last question": (
        {"prompt": "q", "chosen": [*EARLIER, ASK, GOOD], "rejected": [*EARLIER, ASK, POOR]},
        ("u(p)a«o»u(q)", ("a", "b"), []),
    ),
    "whole conversations of which prompt is the first question": (
        {"prompt": "p", "chosen": [*EARLIER, ASK, GOOD], "rejected": [*EARLIER, ASK, POOR]},
        ("u(p)a«o»u(q)", ("a", "b"), []),
    ),
    "system beside whole conversations": (
        {"system": "s", "chosen": [ASK, GOOD], "rejected": [ASK, POOR], "rating": 2},
        ("s(s)u(q)", ("a", "b"), ["rating"]),
    ),
    "one message each": ({"prompt": "q", "chosen": GOOD, "rejected": POOR}, ("u(q)", ("a", "b"), [])),
    "ShareGPT's": (
        {
            "conversations": [{"from": "human", "value": "q"}],
            "chosen": {"from": "gpt", "value": "a"},
            "rejected": {"from": "gpt", "value": "b"},
        },
        ("u(q)", ("a", "b"), []),
    ),
    "OpenAI's": (
        {
            "input": {"messages": [ASK], "tools": [TOOL], "parallel_tool_calls": True},
            "preferred_output": [CALL],
            "non_preferred_output": [POOR],
        },
        ("u(q)", (CALL, "b"), ["input.parallel_tool_calls"]),
    ),
    "a thought": (
        {"prompt": "q", "chosen": [GOOD | {"thinking": "hm"}], "rejected": [POOR]},
        ("u(q)", (GOOD | {"thinking": "hm"}, "b"), []),
    ),
    "a prompt of turns": (
        {
            "prompt": "\n\nHuman: p\n\nAssistant: o\n\nHuman: q\n\nAssistant:",
            "chosen": " a",
            "rejected": " b",
        },
        ("u(p)a«o»u(q)", (" a", " b"), []),
    ),
    "hh-rlhf with a system message": (
        {"system": "s", "chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
        ("s(s)u(q)", ("a", "b"), []),
    ),
    "arena": (
        {"conversation_a": [ASK, POOR], "conversation_b": [ASK, GOOD], "winner": "model_b", "turn": 1},
        ("u(q)", ("a", "b"), ["turn"]),
    ),
    "responses": (
        {"question": "q", "response_a": "b", "response_b": "a", "preferred": "b", "reason": "r"},
        ("u(q)", ("a", "b"), ["reason"]),
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_public_shapes(name):
    record, wanted = SHAPES[name]
    _, pair, unused = read(record)
    assert (spelt(pair.prompt), pair.completions, unused) == wanted and pair.rank == (0, 1)
    if name == "OpenAI's":
        assert pair.template_kwargs == {"tools": [TOOL]}


def test_completions_with_a_rank_or_a_score_each():
    nectar = {
        "prompt": "q",
        "answers": [{"answer": "b", "rank": 2.0}, {"answer": "a", "rank": 1.0}],
        "turns": 1,
    }
    form, pair, unused = read(nectar)
    assert (form, pair.completions, pair.rank, unused) == ("marked", ("a", "b"), (0, 1), ["turns"])
    scored = [{"response": text, "overall_score": s} for text, s in (("b", 3), ("a", 8.5), ("c", 3))]
    _, ranked, _ = read({"instruction": "q", "completions": scored})
    assert (ranked.completions, ranked.rank) == (("a", "b", "c"), (0, 1, 1))
    for answers, reason in (
        ([{"answer": "a", "rank": 1}], "not a list of two objects or more"),
        ([{"answer": "a", "rank": 1}, "b"], "not a list of two objects or more"),
        ([{"answer": "a", "rank": 1}, {"answer": "b"}], "rank of answers.1. is None, not a number"),
        ([{"answer": "a", "rank": 1}, {"answer": "", "rank": 2}], "empty completion: answer of answers.1."),
    ):
        with pytest.raises(BadRecord, match=reason):
            read({"prompt": "q", "answers": answers})


def test_labelled_completions():
    for name in ("completion", "response", "output"):
        record = {"system": "s", "instruction": "q", name: "a", "label": 0, "id": 1}
        form, judged, unused = read(record)
        assert (form, spelt(judged.prompt), judged.completion) == ("judged", "s(s)u(q)", "a")
        assert judged.label is False and unused == ["id"]


def test_labels_of_conversations():
    record = {"messages": [SYSTEM, ASK, GOOD], "kto_tag": True}
    form, judged, unused = read(record)
    assert (form, spelt(judged.prompt), judged.completion, judged.label) == ("judged", "s(s)u(q)", "a", True)
    assert unused == []
    with pytest.raises(BadRecord, match="wrong roles: messages is not one assistant message"):
        read({"messages": [ASK, GOOD, ASK], "label": False})
    with pytest.raises(BadRecord, match="no prompt: messages has one message alone"):
        read({"messages": [GOOD], "label": False})


@pytest.mark.parametrize("winner", ["tie", "tie (bothbad)"])
def test_a_tie_of_the_arena(winner):
    pair = read({"conversation_a": [ASK, POOR], "conversation_b": [ASK, GOOD], "winner": winner})[1]
    assert pair.rank == (0, 0)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (
            {"conversation_a": [ASK, POOR], "conversation_b": [*EARLIER, ASK, GOOD], "winner": "model_a"},
            "no common prompt: conversation_a and conversation_b differ",
        ),
        (
            {"conversation_a": [ASK, POOR], "conversation_b": [ASK, GOOD], "winner": "nobody"},
            "winner is 'nobody', not a, b or tie",
        ),
        ({"prompt": "x", "chosen": [ASK, GOOD], "rejected": [ASK, POOR]}, "does not start with prompt"),
        (
            {"prompt": "q", "chosen": [*EARLIER, ASK, GOOD], "rejected": [ASK, POOR]},
            "does not start with prompt",
        ),
        ({"prompt": [*EARLIER, ASK], "chosen": [ASK, GOOD], "rejected": [ASK, POOR]}, "does not start with"),
        (
            {"input": {"messages": [ASK]}, "preferred_output": [GOOD, GOOD], "non_preferred_output": [POOR]},
            "preferred_output does not start|does not start with prompt",
        ),
        (
            {"input": {"messages": []}, "preferred_output": [GOOD], "non_preferred_output": [POOR]},
            "no messages",
        ),
        ({"prompt": "q", "chosen": {"text": "a"}, "rejected": "b"}, "no messages: chosen is not a list"),
        ({"prompt": "q", "chosen": 5, "rejected": "b"}, "no text: chosen is not a string but int"),
        ({"prompt": "q", "chosen": "a", "rejected": None}, "rejected without a value"),
    ],
)
def test_what_is_no_comparison_says_why(record, reason):
    with pytest.raises(BadRecord, match=reason):
        read(record)


def test_the_preferred_completion_is_a_demonstration_with_its_thought():
    known = [one for one in record_formats.CHAT if one.name == "preferred"]
    pair = {"prompt": "q", "chosen": [GOOD | {"thinking": "hm"}], "rejected": [POOR], "tools": [TOOL]}
    dialog = record_formats.read(pair, known[0])
    assert dialog.messages == (ASK, GOOD | {"thinking": "hm"}) and dialog.template_kwargs == {"tools": [TOOL]}
