"""Continuous batching gives each request what it gets alone."""

import functools

import jax
import numpy as np
import pytest

from jaxtrain import config
from jaxtrain.generate import continuous_batching, engine, sampler
from jaxtrain.models import transformer
from jaxtrain.ops.logprobs import logits
from jaxtrain.train import parallel
from tests import tiny
from tests.generate.test_engine import ARCH, END, NEW, PROMPTS

SEEDS = sampler.prompt_batch(PROMPTS, 3)["seed"]
DEFAULTS = {"temperature": 1.0}
ROOM = 16 + NEW  # slots of the cache: the prompts' bucket and the completion


@functools.cache
def engine_and_params(kind="pmap", mesh="", devices=1):
    """An engine and its parameters."""
    plan = parallel.make(config.Run(parallel=kind, mesh=mesh), jax.devices()[:devices])
    model = transformer.build(ARCH, tiny.how(local=plan.local))
    built = engine.build_engine(plan, model, ends=(END,), max_new=NEW, slots=ROOM)
    return built, built.ready(plan.init(lambda: model.init(jax.random.key(0)), model.axes), ())


@functools.cache
def alone():
    """(tokens, log-probabilities) of each prompt, sampled as one batch."""
    batch = sampler.prompt_batch(PROMPTS, 3) | sampler.sampling_columns(len(PROMPTS), DEFAULTS)
    done = engine.complete(*engine_and_params(), batch)
    rows = zip(done.tokens, done.logps, done.lengths, strict=True)
    return [(tokens[:n].tolist(), logps[:n]) for tokens, logps, n in rows]


def requests(**changes):
    return [
        continuous_batching.DecodeRequest(ids, int(seed), **changes)
        for ids, seed in zip(PROMPTS, SEEDS, strict=True)
    ]


def completions_of(sent, plan=(), rows=3, **options):
    done = list(
        continuous_batching.completions(
            *engine_and_params(*plan), sent, rows=rows, defaults=DEFAULTS, chunk=2, **options
        )
    )
    assert sorted(one.number for one in done) == list(range(len(done)))
    return sorted(done)


@pytest.mark.parametrize(("plan", "rows"), [((), 1), ((), 3), (("mesh", "fsdp:2,tensor:2", 4), 4)])
def test_each_request_gets_what_it_gets_alone(plan, rows):
    for one, (tokens, logps) in zip(completions_of(requests(), plan, rows), alone(), strict=True):
        assert one.tokens == tokens
        np.testing.assert_allclose(one.logps, logps, atol=1e-4)


def test_a_row_that_ends_is_replaced_while_others_run():
    taken = []

    def queue():
        for i, request in enumerate(requests()):
            taken.append(i)
            yield request

    order = []
    for one in continuous_batching.completions(
        *engine_and_params(), queue(), rows=2, defaults=DEFAULTS, chunk=1
    ):
        order.append(one.number)
        assert len(taken) <= len(order) + 1, "a request is taken when a row is free for it, not before"
    assert sorted(order) == list(range(len(PROMPTS))) and order != sorted(order)


def test_requests_may_come_late_and_have_their_own_sampling_parameters():
    greedy = [request._replace(sampling_params={"temperature": 0.0}, limit=3) for request in requests()[:2]]
    late = [greedy[0], None, requests()[2], None, None, greedy[1]]
    done = completions_of(late)
    assert [len(one.tokens) <= 3 for one in done] == [True, len(alone()[2][0]) <= 3, True]
    assert done[1].tokens == alone()[2][0]
    batch = sampler.prompt_batch(PROMPTS[:2], 3) | sampler.sampling_columns(2, {"temperature": 0.0})
    batch["limit"][:] = 3
    wanted = engine.complete(*engine_and_params(), batch)
    for one, tokens, n in zip((done[0], done[2]), wanted.tokens, wanted.lengths, strict=True):
        assert one.tokens == tokens[:n].tolist()


def test_a_stop_ends_a_request():
    long = max(range(8), key=lambda i: len(alone()[i][0]))
    tokens = alone()[long][0]
    stop = f" {tokens[2]} {tokens[3]} "

    def decode(ids):
        return " " + "".join(f"{i} " for i in ids)

    done = completions_of([request._replace(stops=(stop,)) for request in requests()], decode=decode)
    assert done[long].tokens == tokens[:4]


def test_what_cannot_be_sampled_is_refused():
    with pytest.raises(ValueError, match="one device or the mesh plan"):
        next(
            continuous_batching.completions(
                *engine_and_params("pmap", "", 8), requests(), rows=8, defaults=DEFAULTS
            )
        )
    with pytest.raises(ValueError, match="min_p"):
        completions_of([requests()[0]._replace(sampling_params={"min_p": 0.1})])
    with pytest.raises(ValueError, match="the engine was built without"):
        completions_of([requests()[0]._replace(top_logprobs=True)])


TOP = 5


@functools.cache
def engine_with_logprobs(kind="pmap", mesh="", devices=1):
    """An engine with the likeliest tokens, its parameters, and the model's own log-probabilities f32[T, V]."""
    plan = parallel.make(config.Run(parallel=kind, mesh=mesh), jax.devices()[:devices])
    model = transformer.build(ARCH, tiny.how(local=plan.local))
    built = engine.build_engine(
        plan, model, ends=(END,), max_new=NEW, slots=ROOM, top_logprobs=TOP, max_steps=2
    )
    params = plan.init(lambda: model.init(jax.random.key(0)), model.axes)

    plain = transformer.build(ARCH, tiny.how())
    on_host = jax.tree.map(np.asarray, params)

    @jax.jit
    def padded(tree, batch):
        return jax.nn.log_softmax(logits(plain.hidden(tree, batch), plain.head(tree)))[0]

    def forward(ids):
        places = np.arange(ROOM, dtype=np.int32)[None]
        batch = {"tokens": np.zeros_like(places), "positions": places}
        batch["tokens"][0, : len(ids)] = ids
        batch["segments"] = (places < len(ids)).astype(np.int32)
        return padded(on_host, batch)[: len(ids)]

    return built, built.ready(params, ()), forward


def parts_of(sent, plan=(), rows=3, **options):
    """The parts of each request, in their order."""
    parts = {}
    for part in continuous_batching.completion_parts(
        *engine_with_logprobs(*plan)[:2], sent, rows=rows, defaults=DEFAULTS, chunk=2, **options
    ):
        parts.setdefault(part.number, []).append(part)
    return [parts[i] for i in sorted(parts)]


@pytest.mark.parametrize(("plan", "rows"), [((), 3), (("mesh", "fsdp:2,tensor:2", 4), 4)])
def test_parts_are_the_whole_and_have_the_models_own_distribution(plan, rows):
    sent = [
        one._replace(top_logprobs=i % 2 == 0, sampling_params={"temperature": 0.5 + i / 4})
        for i, one in enumerate(requests())
    ]
    parts, wanted = (
        parts_of(sent, plan, rows),
        completions_of([one._replace(top_logprobs=False) for one in sent]),
    )
    forward = engine_with_logprobs()[2]
    for i, (several, one) in enumerate(zip(parts, wanted, strict=True)):
        assert [token for part in several for token in part.tokens] == one.tokens
        assert [part.ended for part in several] == [False] * (len(several) - 1) + [True]
        assert max(len(part.tokens) for part in several) <= 3, "prefill's token, and those of one decode"
        assert all((part.top is None) == (i % 2 == 1) for part in several)
        if i % 2 == 0:
            own, ids, logps = (
                np.concatenate([getattr(p.top, name) for p in several])
                for name in continuous_batching.TokenLogprobs._fields
            )
            all_logps = np.asarray(forward([*PROMPTS[i], *one.tokens]))[len(PROMPTS[i]) - 1 : -1]
            np.testing.assert_allclose(own, all_logps[np.arange(len(own)), one.tokens], atol=1e-4)
            np.testing.assert_allclose(logps, np.take_along_axis(all_logps, ids, 1), atol=1e-4)
            np.testing.assert_allclose(logps, -np.sort(-all_logps, 1)[:, :TOP], atol=1e-4)


def test_a_cancelled_request_frees_its_row():
    parts, sent = [], requests()
    long = max(range(8), key=lambda i: len(alone()[i][0]))
    cancelled = sent[long]._replace(is_cancelled=lambda: len(parts) >= 2)
    for part in continuous_batching.completion_parts(
        *engine_with_logprobs()[:2], [cancelled, sent[0]], rows=1, defaults=DEFAULTS, chunk=2
    ):
        parts.append(part)
    first = [part for part in parts if part.number == 0]
    assert [len(part.tokens) for part in first] == [3, 2, 0] and first[-1].ended
    assert [token for part in parts if part.number == 1 for token in part.tokens] == alone()[0][0]


def test_a_request_may_have_its_own_decoder():
    long = max(range(8), key=lambda i: len(alone()[i][0]))
    tokens = alone()[long][0]
    stop = f"<{tokens[2]}>"
    sent = [
        requests()[long]._replace(stops=(stop,), decode=decode)
        for decode in (lambda ids: "".join(f"<{i}>" for i in ids), lambda ids: "")
    ]
    assert [one.tokens for one in completions_of(sent)] == [tokens[: tokens.index(tokens[2]) + 1], tokens]
