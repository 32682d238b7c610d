"""Summaries of posts and articles, as OpenAI published them with people's choices (arXiv:2009.01325).

A record of TL;DR has subreddit, title, post and summary; one of the comparisons has info (these fields, or those of a
news article), two summaries with the policy of each, and choice, the number of the better one.
"""

from collections.abc import Mapping

from jaxtrain.data.compared_completions import Comparison
from jaxtrain.data.conversations import Dialog
from jaxtrain.data.messages import BadRecord, Message, answer_message, text_of, unlearnt
from jaxtrain.data.record_fields import RecordFields

SHAPE = "subreddit, title, post and summary"
COMPARED_SHAPE = "info (with post or article), summaries with a text each, choice"
_POST = ("subreddit", "title", "post")


def is_summary(record: RecordFields) -> bool:
    """Whether a record is a post of TL;DR with its summary."""
    return all(name in record for name in (*_POST, "summary"))


def is_compared(record: RecordFields) -> bool:
    """Whether a record is a choice between two summaries."""
    return isinstance(record.peek("info"), Mapping) and "summaries" in record and "choice" in record


def demonstration(record: RecordFields) -> Dialog:
    """A post, which is not in the loss, and its summary behind a space."""
    summary = text_of(record["summary"], "summary").strip()
    if not summary:
        raise BadRecord("no text: summary is empty")
    return Dialog(
        (*unlearnt(_prompt({name: record[name] for name in _POST}, "")), answer_message(f" {summary}"))
    )


def compared(record: RecordFields) -> Comparison:
    """The chosen summary before the other one. Raises BadRecord."""
    info, choice = RecordFields(record.peek("info")), record["choice"]
    for name in (*_POST, "article"):
        record.use("info", name)
    summaries = record["summaries"]
    if isinstance(summaries, Mapping):  # as TFDS and older releases of datasets have a list of objects
        summaries = [{"text": text} for text in summaries.get("text", ())]
    if (
        not isinstance(summaries, list)
        or len(summaries) != 2
        or not all(isinstance(s, Mapping) for s in summaries)
    ):
        raise BadRecord("no ranking: summaries is not a list of two objects with a text")
    if isinstance(choice, bool) or choice not in (0, 1):
        raise BadRecord(f"unknown preference: choice is {choice!r}, not 0 or 1")
    texts = [text_of(one.get("text"), f"text of summaries[{i}]") for i, one in enumerate(summaries)]
    return Comparison(_prompt(info, "info."), (texts[choice], texts[1 - choice]), (0, 1), None, None)


def _prompt(info: Mapping, where: str) -> tuple[Message, ...]:
    """The text to summarise, in the form that the reproductions of the paper share (arXiv:2403.17031, section 3.1)."""
    if info.get("post") is None and info.get("article") is not None:
        text = f"Article:\n{text_of(info['article'], f'{where}article')}\n\nTL;DR:\n"
    else:
        subreddit, title, post = (text_of(info.get(name), f"{where}{name}") for name in _POST)
        text = f"SUBREDDIT: r/{subreddit}\n\nTITLE: {title}\n\nPOST: {post}\n\nTL;DR:"
    return ({"role": "user", "content": text},)
