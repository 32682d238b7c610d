"""Tokenised documents: what is stored, dropped, counted and listed, and read again."""

import shutil

import numpy as np
import pytest

from jaxtrain.config import ConfigError
from jaxtrain.data import token_cache, token_parts
from jaxtrain.data.sources import Records
from jaxtrain.data.token_cache import Fim
from jaxtrain.files import processes
from tests.data.cached_tokens import KIND, assert_same, cached, tokenise
from tests.data.corpus import records_of


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


@pytest.mark.parametrize("fim", [None, Fim(0.5, 3)])
def test_parts_by_several_processes_are_the_cache_that_one_writes(many, tmp_path, fim):
    """And its documents are those of a cache of one part, such as an earlier release wrote."""
    found = {}
    for name, workers in (("one", 1), ("two", 2)):
        found[name] = tokenise(many, tmp_path / name, policy="skip", fim=fim, workers=workers)
        (parts,) = (tmp_path / name / "tokens").iterdir()
        assert len([path for path in parts.iterdir() if path.is_dir()]) == 7
    assert cached(tmp_path / "one") == cached(tmp_path / "two")
    assert (found["two"].empty, found["two"].skipped, len(found["two"])) == (1, 1, 398)
    token_parts.WHOLE = 1000
    whole = tokenise(many, tmp_path / "whole", policy="skip", fim=fim)
    token_parts.WHOLE = 100
    for one in found.values():
        assert_same(one, whole)
    assert_same(tokenise(many, tmp_path / "whole", policy="skip", fim=fim), whole)
    (folder,) = (path for path in (tmp_path / "whole" / "tokens").iterdir() if path.is_dir())
    assert folder.suffix != ".parts", "a cache of one part stays one"


def test_a_stopped_run_goes_on_with_the_parts_that_are_missing(many, tmp_path):
    whole = tokenise(many, tmp_path / "whole", policy="skip")
    read = []

    def records(stop=10**9):
        def one(numbers):
            if max(numbers) >= stop:
                raise KeyboardInterrupt
            read.extend(numbers)
            return [many[i] for i in numbers]

        return Records("rows", "fingerprint of rows", one, len(many))

    with pytest.raises(KeyboardInterrupt):
        token_cache.tokenise(records(stop=300), KIND, "text", "skip", tmp_path / "cut", None)
    assert max(read) == 255
    read.clear()
    assert_same(token_cache.tokenise(records(), KIND, "text", "skip", tmp_path / "cut", None), whole)
    assert min(read) == 256, "no part is read twice"


def test_processes_of_a_run_share_the_parts_of_a_folder(many, tmp_path, monkeypatch):
    """Each begins with its own; where the folders are not shared each writes all of them."""
    written = []
    build = token_parts.build
    monkeypatch.setattr(
        token_parts, "build", lambda path, *rest: (written.append(int(path.name)), build(path, *rest))
    )
    monkeypatch.setattr(processes, "place", lambda: (1, 2))
    second = tokenise(many, tmp_path / "second", policy="skip", workers=1)
    assert written == [1, 3, 5, 6, 4, 2, 0]
    monkeypatch.setattr(processes, "place", lambda: (0, 2))
    written.clear()
    for k in (0, 2):
        (folder,) = (tmp_path / "second" / "tokens").iterdir()
        shutil.rmtree(folder / f"{k:05d}")
    assert_same(tokenise(many, tmp_path / "second", policy="skip", workers=1), second)
    assert written == [0, 2]


def test_a_bad_record_is_named_whatever_part_it_is_in(many, tmp_path):
    with pytest.raises(ConfigError, match="rows record 70: field 'text' is not a string but int"):
        tokenise(many, tmp_path, workers=2)
