"""Prompts that are the first tokens of texts."""

import pytest

from jaxtrain.config import ConfigError, Dialogs
from jaxtrain.data import prompts, text_prefixes
from jaxtrain.data.chat import load_template
from jaxtrain.data.messages import BadRecord
from jaxtrain.data.text_prefixes import TextPrefix
from jaxtrain.data.tokenizer import ByteTokenizer
from tests.runs import jsonl

REVIEWS = [f"Review {i} of a film that I saw on day {i * 7} of the year." for i in range(60)]


def cfg(tmp_path, **changes):
    return Dialogs(cache_dir=str(tmp_path / "cache"), template="none", tokenizer="byte", **changes)


def read(tmp_path, options, records=None):
    source = jsonl(
        tmp_path / "imdb.jsonl", records or [{"text": text, "label": i % 2} for i, text in enumerate(REVIEWS)]
    )
    template = load_template("none", ByteTokenizer())
    return prompts.read_prompts(source + options, cfg(tmp_path, eval_data="x"), template)


def test_each_text_gives_a_prompt_of_as_many_tokens_as_it_decides(tmp_path):
    found = read(tmp_path, "?format=prefix&tokens=9-12")
    texts = [one.messages[0]["content"] for one in found]
    sizes = [len(text) for text in texts]
    assert set(sizes) == {9, 10, 11, 12}
    assert all(any(review.startswith(text) for review in REVIEWS) for text in texts)
    assert found[0].record == {"text": REVIEWS[0], "label": 0}, "a reward sees the record's other fields"
    # The same text gives the same prompt beside others.
    again = read(tmp_path, "?format=prefix&tokens=9-12", [{"text": text} for text in reversed(REVIEWS)])
    assert sorted(one.messages[0]["content"] for one in again) == sorted(texts)


def test_the_usual_prompt_has_two_to_eight_tokens(tmp_path):
    sizes = {len(one.messages[0]["content"]) for one in read(tmp_path, "?format=prefix")}
    assert min(sizes) >= 2 and max(sizes) <= 8


def test_a_character_is_not_cut_in_two():
    tokenizer = ByteTokenizer()
    for text in ("é" * 9, "日本語の映画"):
        prefix = TextPrefix(text, 2, 2).prompt(tokenizer).messages[0]["content"]
        assert text.startswith(prefix) and len(prefix) == 1
    assert TextPrefix("ab", 5, 9).prompt(tokenizer).messages[0]["content"] == "ab", (
        "a short text is its own prefix"
    )


def test_a_text_of_spaces_is_a_bad_record():
    with pytest.raises(BadRecord, match="nothing to begin a prompt with"):
        TextPrefix("    ", 2, 3).prompt(ByteTokenizer())


@pytest.mark.parametrize("text", ["", "0", "0-3", "4-2", "2-", "-2", "two", "2-8-9", "2.5", "²"])
def test_what_is_no_range_is_refused(text):
    with pytest.raises(ConfigError, match="--data: tokens="):
        text_prefixes.token_range(text, "--data")


def test_one_number_is_a_range():
    assert text_prefixes.token_range("4", "--data") == (4, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("?tokens=2-8", "acts only with format=prefix"),
        ("?format=text&tokens=2-8", "acts only with format=prefix"),
        ("?format=prefix&tokens=8-2", "write LOW-HIGH, such as 2-8"),
    ],
)
def test_mistakes_name_the_option(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, options)


def test_where_conversations_are_learnt_there_are_no_prefixes(tmp_path):
    from jaxtrain.data import dialogs

    source = jsonl(tmp_path / "imdb.jsonl", [{"text": text} for text in REVIEWS])
    data = cfg(tmp_path, data=f"{source}?format=prefix", batch_size=2, seq_len=32)
    with pytest.raises(ConfigError, match="format=prefix: not read here"):
        tokenizer = ByteTokenizer()
        dialogs.prepare(data, seed=0, tokenizer=tokenizer, template=load_template("none", tokenizer))
