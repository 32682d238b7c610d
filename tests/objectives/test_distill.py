"""Distillation by hand: its terms, what is masked, a student that is its teacher, and what was only told."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.objectives.distill import DistillSettings, distill
from jaxtrain.ops import divergences
from jaxtrain.ops.logprobs import logits
from jaxtrain.types import LM, Head
from tests import tiny

VOCAB = 24


@pytest.fixture(scope="module")
def model():
    return tiny.model(tiny.shrink("llama3.1-8b", layers=1, vocab=VOCAB, init_std=0.1))


@pytest.fixture(scope="module")
def both(model):
    return model.init(jax.random.key(0)), model.init(jax.random.key(1))


def said(model, params, batch):
    """f64[B, T, V] logits."""
    return np.asarray(logits(model.hidden(params, batch), model.head(params)), np.float64)


def log_softmax(x):
    return x - x.max(-1, keepdims=True) - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True))


@pytest.mark.parametrize(("temperature", "hard"), [(1.0, 0.0), (2.0, 0.3), (3.0, 1.0)])
def test_soft_targets_times_t_squared_and_hard_ones_at_t_1(model, both, temperature, hard):
    student, teacher = both
    batch = tiny.batch(4, 12, VOCAB)
    settings = DistillSettings(temperature=temperature, hard_weight=hard)
    found = distill(student, teacher, batch, None, model=model, teacher=model, settings=settings)
    s, t, mask = said(model, student, batch), said(model, teacher, batch), batch["mask"]
    p, q = (log_softmax(x / temperature) for x in (t, s))
    kl = (np.exp(p) * (p - q)).sum(-1)
    nll = -np.take_along_axis(log_softmax(s), batch["targets"][..., None], -1)[..., 0]
    total = (mask * ((1 - hard) * temperature**2 * kl + hard * nll)).sum()
    np.testing.assert_allclose(found.total, total, rtol=1e-4)
    assert found.weight == mask.sum()
    told = {name: float(a) / float(b) for name, (a, b) in found.metrics.items()}
    np.testing.assert_allclose(told["divergence"], (mask * kl).sum() / mask.sum(), rtol=1e-4)
    np.testing.assert_allclose(told["loss"], (mask * nll).sum() / mask.sum(), rtol=1e-4)


@pytest.mark.parametrize("kind", list(divergences.DIVERGENCES))
def test_a_student_that_is_its_teacher_has_nothing_to_learn(model, both, kind):
    batch = tiny.batch(4, 12, VOCAB)
    objective = functools.partial(distill, model=model, teacher=model, settings=DistillSettings(kind))
    value, grads = jax.value_and_grad(lambda p: objective(p, both[0], batch, None).total)(both[0])
    assert abs(value) < 1e-4
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(grads)) < 1e-3


def test_all_that_a_teacher_could_say_is_the_teacher(model, both):
    student, teacher = both
    batch = tiny.batch(4, 12, VOCAB)
    ids, logps = divergences.top_k(jnp.asarray(said(model, teacher, batch), jnp.float32), VOCAB)
    told = {**batch, "teacher_ids": ids, "teacher_logps": logps}
    live = distill(student, teacher, batch, None, model=model, teacher=model, settings=DistillSettings("jsd"))
    kept = distill(student, (), told, None, model=model, teacher=None, settings=DistillSettings("jsd"))
    np.testing.assert_allclose(kept.total, live.total, rtol=1e-4)


def test_a_token_that_the_teacher_is_silent_about_is_a_hard_label(model, both):
    batch = tiny.batch(4, 12, VOCAB)
    shape = (*batch["targets"].shape, 3)
    silent = {
        **batch,
        "teacher_ids": np.full(shape, -1),
        "teacher_logps": np.full(shape, -np.inf, np.float32),
    }
    found = distill(both[0], (), silent, None, model=model, teacher=None, settings=DistillSettings())
    total, count = found.metrics["loss"]
    np.testing.assert_allclose(found.total, total, rtol=1e-6)
    assert found.metrics["divergence"] == (0, 0) and count == batch["mask"].sum()


def test_a_teacher_with_a_padded_vocabulary(model, both):
    student, teacher = both
    batch = tiny.batch(4, 12, VOCAB)

    def padded(params):
        head = model.head(params)
        return Head(
            jnp.concatenate([head.weight, jnp.ones((8, head.weight.shape[1]))]), head.softcap, head.limit
        )

    wide: LM = model._replace(head=padded)
    plain, found = (
        distill(student, teacher, batch, None, model=model, teacher=one, settings=DistillSettings()).total
        for one in (model, wide)
    )
    np.testing.assert_allclose(found, plain, rtol=1e-6)


def test_chunks_of_the_vocabulary_op_change_nothing(model, both):
    batch = tiny.batch(4, 12, VOCAB)

    def small(params):
        return model.head(params)._replace(limit=4 * VOCAB * 5)

    little = model._replace(head=small)
    plain, found = (
        jax.value_and_grad(
            lambda p, one=one: (
                distill(
                    p,
                    both[1],
                    batch,
                    None,
                    model=one,
                    teacher=model,
                    settings=DistillSettings("jsd", hard_weight=0.5),
                ).total
            )
        )(both[0])
        for one in (model, little)
    )
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-4)


def test_an_unknown_divergence_is_refused(model, both):
    with pytest.raises(ValueError, match="choose one of forward_kl, reverse_kl, jsd"):
        distill(
            both[0],
            both[1],
            tiny.batch(2, 8, VOCAB),
            None,
            model=model,
            teacher=model,
            settings=DistillSettings("kl"),
        )
