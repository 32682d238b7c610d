"""Tokenised documents: what is stored, dropped, counted and listed, and read again."""

import numpy as np
import pytest

from jaxtrain.config import ConfigError
from jaxtrain.data import token_cache
from jaxtrain.data.token_cache import Fim
from jaxtrain.data.tokenizer import ByteTokenizer
from tests.data.corpus import records_of

KIND = ByteTokenizer()


def tokenise(rows, folder, *, label="rows", field="text", policy="raise", fim=None):
    return token_cache.tokenise(records_of(rows, label), KIND, field, policy, folder, fim)


def texts(documents):
    """The text of each document, whose first id is BOS and last EOS."""
    for start, stop in zip(documents.offsets[:-1], documents.offsets[1:], strict=True):
        ids = documents.ids[start:stop]
        assert ids[0] == KIND.bos and ids[-1] == KIND.eos
        yield KIND.decode(ids)


def test_documents_are_their_texts_and_what_is_known_of_them(tmp_path):
    found = tokenise([{"text": "aé", "logp": -1.5}, {"text": "b"}], tmp_path)
    assert list(texts(found)) == ["aé", "b"] and found.ids.dtype == np.uint16
    assert len(found) == 2 and found.pairs.tolist() == [4, 2] and found.size == 4
    assert found.logp[0] == -1.5 and np.isnan(found.logp[1]) and found.loss_mask is None
    assert not found.slack.any() and (found.empty, found.skipped) == (0, 0)
    assert tokenise([{"text": "a"}], tmp_path, label="others").logp is None


def test_what_has_no_text_is_dropped_counted_and_listed_the_second_time_too(tmp_path):
    rows = [{"text": "a"}, {"text": " \n"}, {"text": 3}, {"body": "x"}, {"text": b"\xff"}, {"text": "\ud800"}]
    with pytest.raises(ConfigError, match="rows record 2: field 'text' is not a string but int"):
        tokenise(rows, tmp_path)
    for _ in range(2):
        found = tokenise(rows, tmp_path, policy="skip")
        assert list(texts(found)) == ["a"] and (found.empty, found.skipped) == (1, 4)
        with open(found.listed, encoding="utf-8") as file:
            reasons = file.read()
        assert all(f"rows record {i}" in reasons for i in range(2, 6)) and "invalid UTF-8" in reasons
    with pytest.raises(
        ConfigError, match=r"--data=empty: no document left \(1 empty, 0 skipped\); check --text_field"
    ):
        tokenise([{"text": ""}], tmp_path, label="empty")


def test_the_cache_answers_for_the_same_data_tokenizer_and_options_alone(tmp_path):
    rows = [{"text": "some words", "other": "more"}]
    first = tokenise(rows, tmp_path)
    unread = records_of(rows)
    unread = token_cache.tokenise(
        type(unread)(unread.label, unread.fingerprint, None, unread.size),
        KIND,
        "text",
        "raise",
        tmp_path,
        None,
    )
    assert unread.fingerprint == first.fingerprint and list(texts(unread)) == ["some words"]
    changes = (
        {"label": "b"},
        {"field": "other"},
        {"policy": "skip"},
        {"fim": Fim(1.0, 0)},
        {"fim": Fim(1.0, 1)},
    )
    marks = {tokenise(rows, tmp_path, **change).fingerprint for change in changes}
    assert len(marks | {first.fingerprint}) == 6


def test_fill_in_the_middle_rearranges_each_document(tmp_path):
    prefix, suffix, middle = KIND.fim
    found = tokenise([{"text": "abcdefgh"}] * 20, tmp_path, fim=Fim(1.0, 0))
    shapes = set()
    for start, stop in zip(found.offsets[:-1], found.offsets[1:], strict=True):
        ids = found.ids[start + 1 : stop - 1].tolist()
        s, m = ids.index(suffix), ids.index(middle)
        assert ids[0] == prefix and bytes(ids[1:s] + ids[m + 1 :] + ids[s + 1 : m]) == b"abcdefgh"
        shapes.add((s, m))
    assert len(shapes) > 10 and not found.slack.any()
