"""The tokenizer that --tokenizer names, and how much text of which source a BPE is trained on."""

import pytest

from jaxtrain.config import ConfigError, Corpus
from jaxtrain.data import source_spec, tokenizer_training
from jaxtrain.data.source_spec import DataSource
from jaxtrain.data.tokenizer import ByteTokenizer
from tests.data.corpus import records_of, text
from tests.hub import hub  # noqa: F401


def make(folder, name, *counts, weights=None, **changes):
    """The tokenizer of as many documents of each source, and the phrase on its origin."""
    cfg = Corpus(tokenizer=name, cache_dir=str(folder), **changes)
    train = [
        (
            DataSource("jsonl", f"{i}", weight=(weights or [1] * len(counts))[i]),
            records_of([{"text": text(100 * i + n)} for n in range(count)], f"rows {i} of {count}"),
        )
        for i, count in enumerate(counts)
    ]
    return tokenizer_training.make(cfg, train)


def test_bytes_need_no_training(tmp_path):
    kind, origin = make(tmp_path, "byte", 1)
    assert isinstance(kind, ByteTokenizer) and origin == "bytes" and not list(tmp_path.iterdir())


def test_a_tokenizer_of_a_folder_or_of_the_hub_is_read(hub, tmp_path):  # noqa: F811
    folder = tmp_path / "model"
    folder.mkdir()
    make(tmp_path, "bpe:300", 5)[0].save(folder)
    source_spec.check(Corpus(data="tinytown:pretrain", tokenizer="hf:org/model"))
    local, origin = make(tmp_path, f"hf:{folder}", 1)
    assert local.vocab_size == 300 and origin == f"from hf:{folder}"
    hub.add("org/model", folder)
    again, origin = make(tmp_path, "hf:org/model", 1)
    assert (
        again.fingerprint == local.fingerprint
        and origin == f"from hf:org/model@{hub.sha('org/model', 'main')}"
    )
    with pytest.raises(ConfigError, match=r"--tokenizer=hf:org/nothing: no folder of this machine"):
        make(tmp_path, "hf:org/nothing", 1)


def test_a_bpe_is_trained_once(tmp_path, monkeypatch):
    first, origin = make(tmp_path, "bpe:300", 40)
    assert first.vocab_size == 300 and origin.startswith("trained on 0.0 MB, 40 of 40 documents")
    others = [make(tmp_path, "bpe:310", 40)[0], make(tmp_path, "bpe:300", 39)[0]]
    assert len({one.fingerprint for one in (first, *others)}) == 3
    monkeypatch.setattr(tokenizer_training, "_train", None)
    again, said = make(tmp_path, "bpe:300", 40)
    assert (again.fingerprint, said) == (first.fingerprint, origin)


def test_each_source_has_its_share_of_the_text(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer_training, "BYTES_PER_TOKEN", 10)
    seen = []

    def train(texts, size):
        seen.extend(texts)
        return ByteTokenizer()

    monkeypatch.setattr(tokenizer_training.tokenizer, "train_bpe", train)
    _, origin = make(tmp_path, "bpe:300", 60, 60, weights=[1, 3])
    sizes = [
        sum(len(one.encode()) for one in seen if (int(one.split(":")[0]) >= 100) is side)
        for side in (False, True)
    ]
    assert sizes == pytest.approx([750, 2250], abs=3), "cut within a character at most"
    assert origin == f"trained on 0.0 MB, {len(seen)} of 120 documents"


def test_a_file_is_loaded_with_the_tokens_of_the_objective(tmp_path):
    make(tmp_path, "bpe:300", 5)[0].save(tmp_path / "saved")
    (tmp_path / "saved" / "special_tokens.json").unlink()
    kind, origin = make(tmp_path, str(tmp_path / "saved"), 1, objective="masked")
    assert kind.mask is not None and origin == "from the file"
    with pytest.raises(ConfigError, match="no tokenizer"):
        make(tmp_path, str(tmp_path / "nowhere"), 1)
