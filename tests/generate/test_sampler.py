"""Samples against the training forward pass, on a tiny model."""

import functools

import jax
import numpy as np
import pytest

from jaxtrain import config
from jaxtrain.generate import sampler
from jaxtrain.models import transformer
from jaxtrain.ops.logprobs import logits
from jaxtrain.train import parallel
from tests import tiny
from tests.generate.sampling import sample_fn

ARCH = tiny.shrink("gemma2-2b", layers=2, vocab=32)  # windows, soft caps, grouped heads
END, NEW = 7, 12
MODEL = tiny.model(ARCH)
PARAMS = MODEL.init(jax.random.key(0))
PROMPTS = [[1, 5, 9, 2], [3], [4, 4, 6, 1, 2, 3, 9, 30, 11], [8, 2], [1, 5, 9, 2], [10, 11, 12], [2, 9], [31]]


@functools.cache
def compiled(**settings):
    return jax.jit(sample_fn(MODEL, **{"max_new": NEW, "ends": (END,), **settings}))


@functools.cache
def forward():
    def run(params, tokens):
        positions = np.tile(np.arange(tokens.shape[1], dtype=np.int32), (tokens.shape[0], 1))
        batch = {"tokens": tokens, "positions": positions, "segments": np.ones_like(positions)}
        return jax.nn.log_softmax(logits(MODEL.hidden(params, batch), MODEL.head(params)))

    return jax.jit(run)


def sampled(prompts=PROMPTS, seed=0, keep=None, **settings):
    batch = sampler.prompt_batch(prompts, seed)
    batch = batch if keep is None else {name: x[np.asarray(keep)] for name, x in batch.items()}
    return jax.tree.map(np.asarray, compiled(**settings)(PARAMS, (), batch))


def rows(prompts, done):
    """Prompt and completion of each row, padded on the right, with the completion's place in it."""
    whole = np.zeros((len(prompts), max(map(len, prompts)) + NEW), np.int32)
    for row, prompt, tokens in zip(whole, prompts, done.tokens, strict=True):
        row[: len(prompt)] = prompt
        row[len(prompt) : len(prompt) + NEW] = tokens
    return whole


def test_greedy_is_the_most_likely_token_of_the_full_forward_step_by_step():
    done = sampled(temperature=0.0)
    logps = np.asarray(forward()(PARAMS, rows(PROMPTS, done)))
    for prompt, tokens, length, row in zip(PROMPTS, done.tokens, done.lengths, logps, strict=True):
        for t in range(length):
            assert tokens[t] == row[len(prompt) - 1 + t].argmax()
    assert len({tuple(row) for row in done.tokens.tolist()}) > 4


def test_each_of_several_ends_ends_a_completion_and_none_goes_on_to_the_limit():
    endless, ends = sampled(seed=3, ends=()), (END, 30, 11, 60_000)
    done = sampled(seed=3, ends=ends)
    for tokens, length, whole in zip(done.tokens, done.lengths, endless.tokens, strict=True):
        at = next((t for t, token in enumerate(whole) if token in ends), NEW - 1)
        assert length == at + 1 and tokens[:length].tolist() == whole[:length].tolist()
        assert not tokens[length:].any()
    assert {*done.tokens[np.arange(len(done.lengths)), done.lengths - 1]} & {30, 11}
    assert (endless.lengths == NEW).all()


def test_a_row_whose_limit_is_0_has_no_completion():
    batch, others = sampler.prompt_batch(PROMPTS, 3), sampled(seed=3)
    batch["limit"][1] = 0
    done = jax.tree.map(np.asarray, compiled()(PARAMS, (), batch))
    assert done.lengths[1] == 0 and not done.tokens[1].any() and not done.logps[1].any()
    assert np.delete(done.tokens, 1, 0).tolist() == np.delete(others.tokens, 1, 0).tolist()


def test_lengths_and_log_probabilities_are_those_of_the_training_forward():
    done = sampled(seed=3)
    logps = np.asarray(forward()(PARAMS, rows(PROMPTS, done)))
    assert len({*done.lengths.tolist()}) > 2
    for prompt, tokens, length, own, row in zip(
        PROMPTS, done.tokens, done.lengths, done.logps, logps, strict=True
    ):
        assert length == (list(tokens).index(END) + 1 if END in tokens else NEW)
        wanted = [row[len(prompt) - 1 + t, tokens[t]] for t in range(length)]
        np.testing.assert_allclose(own[:length], wanted, atol=1e-4)
        assert not tokens[length:].any() and not own[length:].any()


def test_a_row_is_its_prompt_and_seed_alone():
    whole = sampled()
    assert not np.array_equal(whole.tokens[0], whole.tokens[4])  # one prompt, two seeds
    turned = sampled(keep=range(7, -1, -1))
    assert np.array_equal(turned.tokens, whole.tokens[::-1])
    others = sampled([*PROMPTS[:3], *[[9, 9, 9, 9]] * 5])
    assert np.array_equal(others.tokens[:3], whole.tokens[:3])
    again, other = sampled(), sampled(seed=1)
    assert np.array_equal(again.tokens, whole.tokens) and not np.array_equal(other.tokens, whole.tokens)


def test_a_token_is_sampled_as_often_as_it_is_likely():
    batch = sampler.prompt_batch([[1, 5, 9]] * 2000, 5)
    done = jax.jit(sample_fn(MODEL, max_new=1, ends=(END,)))(PARAMS, (), batch)
    share = np.bincount(np.asarray(done.tokens)[:, 0], minlength=32) / 2000
    wanted = np.exp(np.asarray(forward()(PARAMS, np.array([[1, 5, 9]], np.int32))))[0, -1]
    assert np.abs(share - wanted).max() < 4 * np.sqrt(wanted.max() / 2000)


def test_top_k_and_temperature_act():
    done = sampled(top_k=1)
    assert np.array_equal(done.tokens, sampled(temperature=0.0).tokens)
    np.testing.assert_allclose(done.logps, 0, atol=1e-6)  # of the distribution that was sampled from


def test_an_empty_row_stays_empty():
    batch = sampler.prompt_batch(PROMPTS, 0)
    batch["length"][2] = 0
    done = jax.tree.map(np.asarray, compiled()(PARAMS, (), batch))
    assert done.lengths[2] == 0 and not done.tokens[2].any() and not done.logps[2].any()
    assert np.array_equal(done.tokens[[0, 1, 3]], sampled().tokens[[0, 1, 3]])


@pytest.mark.parametrize(
    ("kind", "mesh"), [("pmap", ""), ("mesh", "fsdp:4,tensor:2"), ("mesh", "fsdp:4,context:2")]
)
def test_every_plan_samples_the_same_tokens(kind, mesh):
    plan = parallel.make(config.Run(parallel=kind, mesh=mesh))
    model = transformer.build(ARCH, tiny.how(local=plan.local))
    params = plan.init(lambda: model.init(jax.random.key(0)), model.axes)
    sample = plan.rows(sample_fn(model, max_new=NEW, ends=(END,)))
    done = plan.get(sample(params, (), plan.put(sampler.prompt_batch(PROMPTS, 3))))
    wanted = sampled(seed=3)
    assert np.array_equal(done.tokens, wanted.tokens) and np.array_equal(done.lengths, wanted.lengths)
    np.testing.assert_allclose(done.logps, wanted.logps, atol=1e-4)


def test_prompts_are_padded_to_few_widths_and_never_empty():
    assert [sampler.prompt_batch([[1] * n], 0)["prompt"].shape[1] for n in (1, 16, 17, 32, 33)] == [
        16,
        16,
        32,
        32,
        64,
    ]
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        sampler.prompt_batch([[1], []], 0)
