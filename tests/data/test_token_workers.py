"""Processes that tokenise: as many as are asked for, and how they fail."""

import os
import signal

import pytest

from jaxtrain.config import Failure
from jaxtrain.data import token_parts, token_workers
from jaxtrain.data.tokenizer import train_bpe
from tests.data.cached_tokens import KIND, tokenise


def test_a_tokenizer_reads_special_tokens_as_text_in_a_worker_too(many, tmp_path):
    """Pickling loses the setting."""
    bpe = train_bpe([row["text"] for row in many if isinstance(row["text"], str)], 300)
    part = token_parts.PartText(["<|eos|> a <|bos|>"], [0.0], None, 0.0, 0, 0, b"")
    done = []
    with token_workers.TokenWorkers(bpe, 2, done.append) as pool:
        pool.submit(tmp_path / "theirs", part, 7)
    token_parts.build(tmp_path / "ours", part, bpe)
    theirs, ours = ((tmp_path / name / "ids.bin").read_bytes() for name in ("theirs", "ours"))
    assert theirs == ours and len(ours) > 20 and done == [7]


def test_few_documents_start_no_worker(tmp_path):
    part = token_parts.PartText(["a"], [0.0], None, 0.0, 0, 0, b"")
    with token_workers.TokenWorkers(KIND, 2, lambda done: None) as pool:
        pool.submit(tmp_path / "a", part, 1)
        assert not pool._workers
    assert (tmp_path / "a" / "ids.bin").stat().st_size == 6


def test_an_error_of_a_worker_is_raised(many, tmp_path):
    part = token_parts.PartText(["a"], [0.0], None, 0.0, 0, 0, b"")
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(FileExistsError),
        token_workers.TokenWorkers(KIND, 2, lambda done: None) as pool,
    ):
        pool.submit(tmp_path / "file" / "a", part, 1)


def test_a_worker_that_is_killed_is_a_failure_that_says_what_to_do(many, tmp_path, monkeypatch):
    monkeypatch.setattr(token_workers, "_write", _killed)
    with pytest.raises(Failure, match=r"tokenising .*: a worker process was killed .* fewer --data_workers"):
        tokenise(many, tmp_path, policy="skip", workers=2)


def _killed(path, part, wait):
    os.kill(os.getpid(), signal.SIGKILL)
