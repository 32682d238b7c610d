"""Which sampler the flags name, and continuous batching in a rollout against fixed batches."""

import types

import jax
import numpy as np
import pytest

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.generate.batch_sampler import SampleRequest
from jaxtrain.models import transformer
from jaxtrain.rl import request_samplers
from jaxtrain.rl.config import Episodes, RolloutSampler
from jaxtrain.stages import sampling
from jaxtrain.train import parallel
from tests import tiny

ARCH = tiny.shrink("gpt2", layers=1, vocab=32, max_len=24)
END, NEW = 7, 6
REQUESTS = [
    SampleRequest(ids, [3 * i, 3 * i + 1]) for i, ids in enumerate([[1, 5, 9, 2], [3], [4] * 17, [8, 2]])
]


def session_on(devices, flags=None):
    plan = parallel.make(config.Run(**(flags or {})), devices)
    model = transformer.build(ARCH, tiny.how(local=plan.local))
    trained = types.SimpleNamespace(whole=lambda params, base: params)
    params = plan.init(lambda: model.init(jax.random.key(0)), model.axes)
    return types.SimpleNamespace(plan=plan, model=model, arch=ARCH, trained=trained), params


def config_of(rows):
    return types.SimpleNamespace(
        sampler=RolloutSampler(rollout_rows=rows),
        episodes=Episodes(),
        data=types.SimpleNamespace(seq_len=ARCH.max_len),
    )


def sampled(rows):
    session, params = session_on(jax.devices()[:1])
    start = request_samplers.maker_of(config_of(rows))(session, (END,), max_new=NEW)
    return start(params, ())(REQUESTS, 4)


def test_continuous_batching_samples_what_fixed_batches_do():
    assert request_samplers.maker_of(config_of(0)) is sampling.request_sampler
    for one, other in zip(sampled(3), sampled(0), strict=True):
        assert (one.ids, one.ended) == (other.ids, other.ended)
        np.testing.assert_allclose(one.logps, other.logps, rtol=1e-4, atol=1e-5)


def test_devices_that_it_does_not_run_on_are_refused():
    session, _ = session_on(jax.devices()[:2])
    make = request_samplers.maker_of(config_of(4))
    with pytest.raises(ConfigError, match="--rollout_rows=4: continuous batching takes one device, or"):
        make(session, (END,), max_new=NEW)
    mesh, _ = session_on(jax.devices()[:2], {"parallel": "mesh"})
    assert make(mesh, (END,), max_new=NEW)
