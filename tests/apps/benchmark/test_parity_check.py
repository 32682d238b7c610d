import dataclasses

import jax
import numpy as np

from jaxtrain import config
from jaxtrain.apps.benchmark import parity_check, workloads
from jaxtrain.apps.benchmark.sizes import TINY
from jaxtrain.models import zoo
from jaxtrain.stages.load_model import build_model


def test_every_document_stands_in_a_packed_row_and_in_one_of_its_own():
    together, alone, places = parity_check.documents(3, 20, 50)
    assert len(places) == 3 * parity_check.DOCUMENTS == len(alone["tokens"]) and len(together["tokens"]) == 3
    assert sum(b - a for _, a, b in places) == together["tokens"].size
    for j, (i, a, b) in enumerate(places):
        for name in ("tokens", "targets", "positions"):
            assert np.array_equal(together[name][i, a:b], alone[name][j, : b - a])
        assert np.array_equal(together["positions"][i, a:b], np.arange(b - a))
        assert (alone["segments"][j] == (np.arange(20) < b - a)).all()
        assert set(together["segments"][i, a:b]) == {1 + j % parity_check.DOCUMENTS}


def test_differences_in_numbers():
    record = parity_check.differences(np.array([[0.5, -0.5], [1.5, 0.5]]), np.array([1.0, 3.0]))
    assert record == {
        "tokens": 4,
        "mean": 0.5,
        "standard_error": float(np.sqrt(0.5)) / 2,
        "mean_absolute": 0.75,
        "largest": 1.5,
        "logps_spread": 1.0,
    }


def test_a_document_that_sees_another_one_is_not_right():
    plan, arch, sizes = (
        workloads.one_device(),
        zoo.resolve(TINY.parity),
        dataclasses.replace(TINY, parity_rows=8),
    )
    model = build_model(plan, arch, config.Model(dtype="float32"))
    params = model.init(jax.random.key(0))
    record = parity_check.packed(plan, model, params, sizes, arch.vocab)
    assert record["largest"] < parity_check.MOST_F32 and record["logps_spread"] > 0.5

    def hidden(params, batch):
        return model.hidden(params, {**batch, "segments": batch["segments"] * 0 + 1})

    record = parity_check.packed(plan, model._replace(hidden=hidden), params, sizes, arch.vocab)
    assert record["mean_absolute"] > 10 * parity_check.MOST_BF16


def test_the_sampler_s_log_probabilities_are_the_trainer_s():
    plan, arch, sizes = (
        workloads.one_device(),
        zoo.resolve(TINY.parity),
        dataclasses.replace(TINY, parity_rows=2),
    )
    settings = config.Model(dtype="bfloat16")
    params = build_model(plan, arch, settings).init(jax.random.key(0))
    record = parity_check.sampler(plan, arch, settings, params, sizes)
    assert record["tokens"] == 2 * 24 and abs(record["mean"]) < parity_check.MOST_MEAN
    assert record["logps_spread"] > 0.5
