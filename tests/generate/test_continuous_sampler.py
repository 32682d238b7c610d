"""Continuous batching of many prompts gives what fixed batches give, in the order of the requests."""

import functools
import threading

import jax
import numpy as np
import pytest

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.files import progress
from jaxtrain.generate import batch_sampler, continuous_sampler, engine
from jaxtrain.models import transformer
from jaxtrain.train import parallel
from tests import tiny
from tests.generate.test_batch_sampler import ARCH, CONTEXT, END, NEW, REQUESTS, sample


@functools.cache
def engine_and_params():
    plan = parallel.make(config.Run(), jax.devices()[:1])
    model = transformer.build(ARCH, tiny.how(local=plan.local))
    slots = continuous_sampler.cache_slots(CONTEXT, NEW)
    built = engine.build_engine(plan, model, ends=(END,), max_new=NEW, slots=slots, max_steps=2)
    return built, built.ready(plan.init(lambda: model.init(jax.random.key(0)), model.axes), ())


def continuously(requests, rows, **options):
    return continuous_sampler.sample(
        *engine_and_params(), requests, context=CONTEXT, rows=rows, chunk=2, **options
    )


@pytest.mark.parametrize("rows", [1, 3, 16])
def test_completions_are_those_of_fixed_batches_in_their_order(rows):
    for one, other in zip(continuously(REQUESTS, rows), sample(), strict=True):
        assert one.ids == other.ids
        np.testing.assert_allclose(one.logps, other.logps, rtol=1e-4, atol=1e-5)


def test_the_limits_are_those_of_fixed_batches():
    full = [REQUESTS[0]._replace(ids=[1] * CONTEXT)]
    with pytest.raises(ConfigError, match=f"prompt 0 has {CONTEXT} tokens, which leaves no room"):
        continuously(full, 2)
    assert batch_sampler.token_limits(engine_and_params()[0], REQUESTS, CONTEXT).tolist() == [4, 5, 4, 5, 4]
    assert continuous_sampler.cache_slots(17, 6) == 38


def recorded_parts(monkeypatch, before=lambda: None):
    """(rows, requests taken) of each part; `before` is called before each of its completions is seen."""
    parts, seen = continuous_sampler.continuous_batching.completions, []

    def recorded(engine, params, requests, *, rows, **options):
        taken = []
        seen.append((rows, taken))
        watched = (taken.append(one) or one for one in requests)
        for one in parts(engine, params, watched, rows=rows, **options):
            before()
            yield one

    monkeypatch.setattr(continuous_sampler.continuous_batching, "completions", recorded)
    return seen


def test_prompts_of_a_bucket_are_taken_one_after_the_other(monkeypatch):
    seen = recorded_parts(monkeypatch)
    continuously([REQUESTS[4], *REQUESTS[:2]], 3)
    taken = [len(one.ids) for _, requests in seen for one in requests]
    assert taken == [4, 4, 1, 1, 20, 20]


def test_halves_of_the_rows_are_sampled_at_once_on_one_cpu(monkeypatch):
    both = threading.Barrier(2, timeout=60)  # is passed only while both are under way
    waits = []
    seen = recorded_parts(monkeypatch, lambda: len(waits) < 2 and (waits.append(0), both.wait()))
    done = continuously(REQUESTS, 4)
    assert [one.ids for one in done] == [one.ids for one in sample()]
    assert sorted((rows, len(taken)) for rows, taken in seen) == [(2, 5), (2, 5)]


def test_a_stop_in_one_half_ends_the_other(monkeypatch):
    other = threading.Event()

    def before():
        if threading.current_thread() is not threading.main_thread():
            other.wait(60)

    seen = recorded_parts(monkeypatch, before)
    threading.Timer(2, other.set).start()

    def stop():
        raise KeyboardInterrupt

    with progress.checking(stop), pytest.raises(KeyboardInterrupt):
        continuously(REQUESTS * 8, 2)
    assert len(seen) == 2 and all(len(taken) < 20 for _, taken in seen)
