"""A teacher's likeliest tokens of packed rows: from the model once, then from the disk."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.distillation import topk_cache
from jaxtrain.distillation.teacher import Teacher
from jaxtrain.ops.logprobs import logits
from jaxtrain.train import parallel
from tests import tiny

ARCH = tiny.shrink("llama2-7b", layers=1, vocab=32)
B, T, K, TAU = 8, 8, 3, 2.0


def flags(tmp_path, k=K):
    return SimpleNamespace(
        loss=SimpleNamespace(teacher_topk=k, soft_temperature=TAU),
        data=config.Dialogs(batch_size=B, seq_len=T, cache_dir=str(tmp_path)),
        model=config.Model(),
    )


class Rows(list):
    """Packed rows."""

    documents = SimpleNamespace(fingerprint="rows")


def test_what_is_written_comes_back_by_row(tmp_path, monkeypatch):
    monkeypatch.setattr(topk_cache, "SHARD", 4)
    rng = np.random.default_rng(0)
    ids, logps = rng.integers(0, 99, (6, T, K), np.int32), rng.normal(size=(6, T, K)).astype("f")
    topk_cache.write(tmp_path, iter([(ids[:4], logps[:4]), (ids[4:], logps[4:])]))
    assert len(list(tmp_path.iterdir())) == 2
    table = topk_cache.TopK(tmp_path, T)
    assert len(table) == 6
    for r in range(6):
        np.testing.assert_array_equal(table[r]["teacher_ids"], ids[r])
        np.testing.assert_array_equal(table[r]["teacher_logps"], logps[r])


def test_hosts_that_compute_together_do_not_wait_for_each_others_lock(tmp_path):
    """Each reads all parts, though another host holds the lock or has built the folder by then."""
    ids, logps = np.zeros((4, T, K), np.int32), np.ones((4, T, K), np.float32)
    folder = tmp_path / "teachers" / "x"

    def parts(other=None):
        yield ids, logps
        if other:
            topk_cache._build(folder, other, alone=True)

    topk_cache._build(folder, parts(parts()), alone=False)
    assert len(topk_cache.TopK(folder, T)) == 4
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == ["x"], "nothing else is left"


def test_the_table_is_the_models_and_is_computed_once(tmp_path, monkeypatch):
    plan, model = parallel.make(config.Run()), tiny.model(ARCH)
    params = model.init(jax.random.key(0))
    teacher = Teacher(model=model, params=params, start=SimpleNamespace(arch=ARCH), text="x")
    batch = {name: np.asarray(x) for name, x in tiny.batch(11, T, ARCH.vocab).items()}
    rows = Rows({name: x[r] for name, x in batch.items()} for r in range(11))  # no whole number of batches
    table = topk_cache.cached_topk(flags(tmp_path), teacher, plan, rows)
    logps = jax.nn.log_softmax(logits(model.hidden(params, batch), model.head(params)) / TAU)
    assert len(table) == 11
    for r in (0, 7, 10):
        ids = table[r]["teacher_ids"]
        np.testing.assert_array_equal(np.sort(ids), np.sort(np.argsort(-logps[r])[:, :K]))
        np.testing.assert_allclose(
            table[r]["teacher_logps"], np.take_along_axis(np.asarray(logps[r]), ids, 1), atol=1e-4
        )
    monkeypatch.setattr(topk_cache, "write", None)
    assert len(topk_cache.cached_topk(flags(tmp_path), teacher, plan, rows)) == 11, "from the cache"
    with pytest.raises(ConfigError, match="--teacher_topk=33: the teacher's vocabulary has 32 tokens"):
        topk_cache.cached_topk(flags(tmp_path, k=33), teacher, plan, rows)
