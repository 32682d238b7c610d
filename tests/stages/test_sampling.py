"""Completions of prompts that differ from call to call, on a tiny model."""

import functools
import types

import jax
import numpy as np
import pytest

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.generate import batch_sampler
from jaxtrain.models import transformer
from jaxtrain.stages import sampling, weights
from jaxtrain.train import parallel
from tests import tiny

ARCH = tiny.shrink("gpt2", layers=2, vocab=32, max_len=24)
END = 7
PROMPTS = [[1, 5, 9, 2], [3], [4, 4, 6, 1, 2, 3, 9, 30, 11], [8, 2], [1] * 20]


@functools.cache
def opened(kind="pmap", mesh=""):
    """What of a session a sampler needs, and parameters."""
    plan = parallel.make(config.Run(parallel=kind, mesh=mesh))
    model = transformer.build(ARCH, tiny.how(local=plan.local))
    run = types.SimpleNamespace(
        plan=plan, arch=ARCH, model=model, trained=weights.trained_part(model.axes, config.Lora())
    )
    return run, plan.init(lambda: model.init(jax.random.key(0)), model.axes)


@functools.cache
def token_sampler(*plan, **settings):
    run, params = opened(*plan)
    sample = sampling.token_sampler(run, (END,), max_new=8, **settings)
    return lambda prompts=PROMPTS, seed=0: sample(params, (), prompts, seed)


def sampler(*plan, **settings):
    """The sampler, without log-probabilities, which are arrays."""
    sample = token_sampler(*plan, **settings)
    return lambda *args, **kwargs: [one._replace(logps=None) for one in sample(*args, **kwargs)]


def test_a_completion_is_of_its_place_prompt_and_seed_alone():
    whole = sampler()()
    assert sampler()(PROMPTS[:2]) == whole[:2] and sampler()(seed=1) != whole
    assert sampler()([[9], *PROMPTS[1:]])[1:] == whole[1:]


def test_a_completion_ends_itself_or_at_the_limit_or_where_the_context_does():
    sampled = sampler()(PROMPTS * 12)
    for each, prompt in zip(sampled, PROMPTS * 12, strict=True):
        assert each.ended == (END in each.ids) and END not in each.ids[:-1]
        assert each.ended or len(each.ids) == min(8, 24 - len(prompt))
    assert {each.ended for each in sampled} == {True, False}


def test_any_of_several_ends_ends_a_completion_and_is_no_part_of_its_text():
    run, params = opened()
    sample = sampling.token_sampler(run, (END, 9, 30), max_new=8)
    sampled = sample(params, (), PROMPTS * 12, 0)
    assert {each.ids[-1] for each in sampled if each.ended} == {END, 9, 30}
    for each in sampled:
        assert each.text_ids == (each.ids[:-1] if each.ended else each.ids)
        assert not {END, 9, 30} & {*each.text_ids}


def test_samples_of_a_prompt_stand_together_and_differ():
    sampled = sampler(samples=3)()
    alone = sampler()([PROMPTS[2]] * 9)  # the same places
    assert sampled[6:9] == alone[6:9] and sampled[6] != sampled[7]


def test_rows_beyond_one_call_are_sampled_in_several(monkeypatch):
    whole = sampler()(PROMPTS * 12)
    monkeypatch.setattr(batch_sampler, "AT_ONCE", 8)
    assert sampler()(PROMPTS * 12) == whole


def test_every_plan_samples_the_same():
    assert sampler("mesh", "fsdp:4,tensor:2")() == sampler()()
    for one, other in zip(token_sampler("mesh", "fsdp:4,tensor:2")(), token_sampler()(), strict=True):
        assert len(one.logps) == len(one.ids) and np.allclose(one.logps, other.logps, atol=1e-5)


def test_a_prompt_that_fills_the_context_is_named():
    with pytest.raises(ConfigError, match=r"prompt 1 has 24 tokens.*context of 24"):
        sampler()([[1], [9] * 24])
