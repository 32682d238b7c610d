"""Posts with summaries, and people's choices between two summaries."""

import pytest

from jaxtrain.data import record_formats
from jaxtrain.data.compared_completions import Comparison
from jaxtrain.data.conversations import Dialog
from jaxtrain.data.messages import BadRecord
from tests.data.test_record_formats import read

POST = {"subreddit": "pets", "title": "A cat", "post": "It sleeps.\nA lot."}
PROMPT = (
    {"role": "user", "content": "SUBREDDIT: r/pets\n\nTITLE: A cat\n\nPOST: It sleeps.\nA lot.\n\nTL;DR:"},
)
TEXTS = [{"text": " One.", "policy": "sup1", "note": None}, {"text": " Two.", "policy": "ref", "note": None}]
CHOICE = {
    "info": {"id": "t3", **POST, "site": None, "article": None}, "summaries": TEXTS, "choice": 1, "worker": "w",
    "batch": "batch3", "split": "train", "extra": {"confidence": None},
}  # fmt: skip


def test_a_post_is_a_prompt_and_its_summary_an_answer_behind_a_space():
    name, dialog = read({"id": "t3", **POST, "summary": "Cats sleep."})
    question = PROMPT[0] | {"train": False}
    assert name == "summary"
    assert dialog == Dialog((question, {"role": "assistant", "content": " Cats sleep."}))


def test_the_chosen_summary_is_the_first():
    assert read(CHOICE) == ("summaries", Comparison(PROMPT, (" Two.", " One."), (0, 1), None, None))
    swapped = read(CHOICE | {"choice": 0})[1]
    assert swapped.completions == (" One.", " Two.")
    columns = {"text": [" One.", " Two."], "policy": ["sup1", "ref"], "note": [None, None]}
    assert read(CHOICE | {"summaries": columns})[1].completions == (" Two.", " One."), (
        "lists, as TFDS has them"
    )


def test_an_article_has_a_form_of_its_own():
    news = CHOICE | {
        "info": {"id": "n", "article": "It rained.", "post": None, "subreddit": None, "title": None}
    }
    assert read(news)[1].prompt[0]["content"] == "Article:\nIt rained.\n\nTL;DR:\n"


def test_what_was_not_read_is_listed():
    fields = record_formats.RecordFields(CHOICE)
    record_formats.read(fields, next(one for one in record_formats.COMPARED if one.name == "summaries"))
    assert set(fields.unused()) == {"info.id", "worker", "batch", "split", "extra"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"choice": 2}, "choice is 2"),
        ({"choice": True}, "choice is True"),
        ({"choice": "1"}, "choice is '1'"),
        ({"summaries": TEXTS[:1]}, "not a list of two objects"),
        ({"summaries": [" One.", " Two."]}, "not a list of two objects"),
        ({"summaries": [{"text": None}, TEXTS[1]]}, r"text of summaries\[0\] is not a string"),
        ({"info": {"post": "p", "title": "t"}}, r"info\.subreddit is not a string"),
        ({"info": {"article": 3}}, r"info\.article is not a string"),
    ],
)
def test_bad_choices_are_refused_by_their_field(changes, reason):
    with pytest.raises(BadRecord, match=reason):
        read(CHOICE | changes)


def test_an_empty_summary_is_a_bad_record():
    with pytest.raises(BadRecord, match="summary is empty"):
        read({**POST, "summary": "  "})
