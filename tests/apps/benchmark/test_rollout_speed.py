"""Rollouts of a heavy tail: their lengths, that both samplers sample the same, and the numbers that are shown."""

import numpy as np
import pytest

from jaxtrain import config
from jaxtrain.apps.benchmark import rollout_speed, workloads
from jaxtrain.generate.batch_sampler import SampledIds
from jaxtrain.models import zoo

ARCH = zoo.resolve("tinytown-200k,layers=1,width=16,heads=2,ff=16,vocab=32")


def test_few_completions_are_long():
    found = rollout_speed.lengths(10_000, 256, 0)
    assert found.min() >= 17 and found.max() == 256
    assert found.mean() < 60 and 0.005 < (found == 256).mean() < 0.05
    assert found.tolist() == rollout_speed.lengths(10_000, 256, 0).tolist()


def test_both_samplers_are_measured_on_the_same_completions():
    times = rollout_speed.measure(
        workloads.one_device(),
        ARCH,
        config.Model(dtype="float32"),
        rows=2,
        length=24,
        seed=0,
        repeats=1,
        chunk=4,
    )
    assert len(times.continuous) == len(times.fixed) == 1
    assert times.tokens == rollout_speed.lengths(16, 20, 0).sum() and times.longest <= 20
    numbers = rollout_speed.numbers(
        times._replace(continuous=[2.0, 1.0, 4.0], fixed=[4.0, 4.0, 9.0], tokens=80)
    )
    assert (numbers["tokens_per_s"], numbers["fixed_tokens_per_s"], numbers["speedup"]) == (40, 20, 2)


def test_samplers_that_differ_are_an_error():
    one = [SampledIds([i, 1], np.zeros(2)) for i in range(20)]
    rollout_speed._require_same(one, [*one[:19], SampledIds([9, 9], np.zeros(2))])
    with pytest.raises(config.Failure, match="different lengths"):
        rollout_speed._require_same(one, [*one[:19], SampledIds([9], np.zeros(1))])
    with pytest.raises(config.Failure, match="the same tokens in 50% of the completions alone"):
        rollout_speed._require_same(one, [*one[:10], *[SampledIds([9, 9], np.zeros(2))] * 10])
