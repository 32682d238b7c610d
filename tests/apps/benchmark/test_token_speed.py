"""The benchmark of tokenising: every way reads the same documents into the same number of tokens."""

import pytest

from experiments import bench
from jaxtrain.apps.benchmark import token_speed
from jaxtrain.config import ConfigError, Corpus
from tests.data.corpus import prose, text


def test_every_way_has_the_same_documents_and_tokens(tmp_path):
    pytest.importorskip("pyarrow")
    data = prose(tmp_path / "a.jsonl", 600)
    cfg = Corpus(data=data, tokenizer="byte", data_workers=1, cache_dir=str(tmp_path / "cache"))
    found = {way: numbers for way, cores, numbers in token_speed.measure(cfg) if numbers}
    assert {"--streaming", "without it", "loop"} <= set(found) <= set(token_speed.WAYS)
    tokens = sum(len(text(i).encode()) + 2 for i in range(600))
    for numbers in found.values():
        assert numbers["tokens_per_s"] / numbers["documents_per_s"] == pytest.approx(tokens / 600)
        assert numbers["megabytes_per_s"] < numbers["tokens_per_s"] / 1e6
        assert numbers["memory"] > 2**24 and numbers["tokens_per_cpu_s"] > 0 and numbers["first_s"] > 0


def test_flags_that_do_nothing_there_are_refused():
    def check(**groups):
        what = bench.BenchTask(task="tokenise", **groups.pop("what", {}))
        bench.require_acting(bench.Bench(what=what, **groups))

    check(data=Corpus(seq_len=256, data="jsonl:a", tokenizer="byte", data_workers=3))
    with pytest.raises(ConfigError, match="--seq_len: --task=tokenise measures text to token ids alone"):
        check(data=Corpus(seq_len=64))
    with pytest.raises(ConfigError, match="--sizes: --task=tokenise"):
        check(what={"sizes": "bench-m"})
    with pytest.raises(ConfigError, match="--data: bench measures a step on random tokens"):
        bench.require_acting(bench.Bench(data=Corpus(seq_len=256, data="jsonl:a")))
