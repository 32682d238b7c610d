"""Trees of messages: put together before anything is held out, each reply learnt once, ranked replies compared."""

import pytest

from jaxtrain.data import message_trees, record_formats
from jaxtrain.data.messages import BadRecord
from jaxtrain.data.record_fields import RecordFields
from tests.data.test_conversations import opened, spelt


def node(text, *replies, role="assistant", rank=None, **fields):
    return {"text": text, "role": role, "rank": rank, "replies": list(replies), **fields}


def ask(text, *replies, **fields):
    return node(text, *replies, role="prompter", **fields)


def tree(root):
    return RecordFields({"message_tree_id": "t", "prompt": root})


BOTH = ask("q", node("a", ask("r", node("c"), node("d"))), node("b", ask("unanswered")))


def test_each_reply_is_learnt_once():
    found = [spelt(one.messages) for one in message_trees.conversations(tree(BOTH))]
    assert found == ["u(q)a«a»u(r)a«c»", "u(q)a(a)u(r)a«d»", "u(q)a«b»"]
    assert message_trees.is_tree(tree(BOTH)) and not message_trees.is_tree(RecordFields({"prompt": "q"}))


def test_ranked_replies_are_compared():
    root = ask(
        "q",
        node("worst", rank=2),
        node("best", ask("r", node("x", rank=1), node("y", rank=0)), rank=0),
        node("unranked"),
        node("also worst", rank=2.0),
    )
    found = [(spelt(c.prompt), c.completions, c.rank) for c in message_trees.comparisons(tree(root))]
    assert found == [
        ("u(q)", ("best", "worst", "also worst"), (0, 1, 1)),
        ("u(q)a«best»u(r)", ("y", "x"), (0, 1)),
    ]
    assert message_trees.comparisons(tree(BOTH)) == []


def test_deleted_and_rejected_messages_are_left_out_with_their_replies():
    root = ask("q", node("a", ask("r", node("c")), deleted=True), node("b", review_result=False), node("d"))
    assert [spelt(one.messages) for one in message_trees.conversations(tree(root))] == ["u(q)a«d»"]
    with pytest.raises(BadRecord, match="no assistant turn: no reply of an assistant in the tree"):
        message_trees.conversations(tree(ask("q", node("a", deleted=True))))
    with pytest.raises(BadRecord, match="the tree's first message was deleted"):
        message_trees.conversations(tree(ask("q", node("a"), deleted=True)))


@pytest.mark.parametrize(
    ("root", "reason"),
    [
        (ask("q", "a"), r"prompt.replies\[0\] is not an object with text and role"),
        (ask("q", node(3)), r"text of prompt.replies\[0\] is not a string but int"),
        (ask("q", node("a", role="robot")), "unknown role: .* has 'robot'"),
        (ask("q", node("a", rank="first")), "a reply's rank is 'first', not a number"),
        ({"text": "q", "role": "prompter", "replies": {"a": 1}}, "replies of prompt is not a list"),
    ],
)
def test_what_is_no_tree_says_why(root, reason):
    with pytest.raises(BadRecord, match=reason):
        message_trees.conversations(tree(root))


def rows(*columns):
    return [
        {"message_id": i, "parent_id": parent, "text": text, "role": role, "lang": "en", "rank": rank}
        for i, parent, text, role, rank in columns
    ]


ROWS = rows(
    ("r", "a", "why?", "prompter", None),
    ("q", None, "q", "prompter", None),
    ("b", "q", "b", "assistant", 1),
    ("a", "q", "a", "assistant", 0),
    ("c", "r", "c", "assistant", None),
    ("z", None, "z", "prompter", None),
    ("lost", "nowhere", "x", "assistant", 0),
)


def test_rows_become_trees():
    records = message_trees.assembled(opened(*ROWS))
    assert len(records) == 2 and records.fingerprint != opened(*ROWS).fingerprint
    assert records.notes == (
        "7 messages are 2 trees",
        "1 messages left out: the one that they answer is not there",
    )
    found = message_trees.conversations(RecordFields(records[0]))
    assert [spelt(one.messages) for one in found] == ["u(q)a«b»", "u(q)a«a»u(why?)a«c»"]
    (pair,) = message_trees.comparisons(RecordFields(records.many([1, 0])[1]))
    assert pair.completions == ("a", "b")


def test_rows_without_an_id_are_read_and_those_with_that_of_another_are_counted():
    fill = rows(*((f"m{i}", None, "q", "prompter", None) for i in range(message_trees._FIRST)))
    nameless = [{"parent_id": None, "text": text, "role": "prompter"} for text in ("one", "two")]
    records = message_trees.assembled(opened(*fill, *ROWS, *nameless, *ROWS[:2]))
    assert len(records) == len(fill) + 4
    assert records.notes[1:] == (
        "1 messages left out: the one that they answer is not there",
        "2 messages left out: a later one has the same message_id",
    )
    roots = [records[i]["prompt"] for i in range(len(records))]
    assert all({**one, "replies": []} in roots for one in nameless)


def test_other_records_stay_as_they_are():
    for records in (opened({"text": "x", "role": "user"}), opened({"prompt": "q"}, ROWS[0])):
        assert message_trees.assembled(records) is records


def test_a_record_that_is_no_message_among_others_is_a_tree_that_cannot_be_read():
    records = message_trees.assembled(opened({"prompt": "q"}, *ROWS))
    assert len(records) == len(message_trees.assembled(opened(*ROWS))) + 1
    with pytest.raises(BadRecord, match="other fields"):
        record_formats.read(records[0], record_formats.CHAT[-1])


def test_a_deep_tree_needs_no_deep_stack():
    chain = rows(
        *(
            (str(i), str(i - 1) if i else None, f"m{i}", ("prompter", "assistant")[i % 2], None)
            for i in range(3_000)
        )
    )
    (dialog,) = message_trees.conversations(RecordFields(message_trees.assembled(opened(*chain))[0]))
    assert len(dialog.messages) == 3_000
