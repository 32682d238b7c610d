"""Fixtures that the data tests share."""

import pytest

from jaxtrain.config import Corpus, Dialogs
from jaxtrain.data import token_parts, token_workers
from tests.data.corpus import text, write


@pytest.fixture
def cfg(tmp_path):
    """A config of plain text."""

    def make(data, **changes):
        return Corpus(data=data, cache_dir=str(tmp_path / "cache"), **changes)

    return make


@pytest.fixture
def conversations(tmp_path):
    """A config of conversations in a file."""

    def make(records, name="a", **changes):
        data = records if isinstance(records, str) else write(tmp_path / f"{name}.jsonl", records)
        options = {"seq_len": 64, "batch_size": 4, "eval_share": 0.1, "cache_dir": str(tmp_path / "cache")}
        return Dialogs(data=data, **(options | changes))

    return make


@pytest.fixture
def comparisons(tmp_path):
    """A config of comparisons in files; those held out are the same ones unless given."""

    def make(records, held=None, **changes):
        data = records if isinstance(records, str) else write(tmp_path / "a.jsonl", records)
        held = data if held is None else write(tmp_path / "held.jsonl", held)
        options = {"seq_len": 48, "batch_size": 2, "cache_dir": str(tmp_path / "cache"), "eval_data": held}
        return Dialogs(data=data, **(options | changes))

    return make


@pytest.fixture
def many(monkeypatch):
    """Records of several parts, with some that are dropped, and workers that start at once."""
    monkeypatch.setattr(token_parts, "WHOLE", 100)
    monkeypatch.setattr(token_parts, "_LEAST", 64)
    monkeypatch.setattr(token_workers, "_ALONE", 0.0)
    rows = [{"text": text(i), "logp": -float(i)} for i in range(400)]
    rows[70], rows[200], rows[333] = {"text": 3}, {"text": " \n"}, {"text": text(333)}
    return rows
