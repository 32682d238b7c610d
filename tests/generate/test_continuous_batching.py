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

pytestmark = pytest.mark.usefixtures("quick_compiles")

SEEDS = sampler.prompts(PROMPTS, 3)["seed"]
USUAL = {"temperature": 1.0}
ROOM = 16 + NEW  # slots of the cache: the prompts' bucket and the completion


@functools.cache
def made(kind="pmap", mesh="", devices=1):
    """An engine and its parameters."""
    plan = parallel.make(config.Run(parallel=kind, mesh=mesh), jax.devices()[:devices])
    model = transformer.build(ARCH, tiny.how(local=plan.local))
    made = engine.engine(plan, model, end=END, width=NEW, slots=ROOM)
    return made, made.ready(plan.init(lambda: model.init(jax.random.key(0)), model.axes), ())


@functools.cache
def alone():
    """(tokens, log-probabilities) of each prompt, drawn as one batch."""
    batch = sampler.prompts(PROMPTS, 3) | sampler.columns(len(PROMPTS), USUAL)
    told = engine.complete(*made(), batch)
    rows = zip(told.tokens, told.logps, told.lengths, strict=True)
    return [(tokens[:n].tolist(), logps[:n]) for tokens, logps, n in rows]


def requests(**changes):
    return [
        continuous_batching.Request(ids, int(seed), **changes)
        for ids, seed in zip(PROMPTS, SEEDS, strict=True)
    ]


def served(asked, plan=(), rows=3, **options):
    found = list(
        continuous_batching.completions(*made(*plan), asked, rows=rows, usual=USUAL, chunk=2, **options)
    )
    assert sorted(one.number for one in found) == list(range(len(found)))
    return sorted(found)


@pytest.mark.parametrize(("plan", "rows"), [((), 1), ((), 3), (("mesh", "fsdp:2,tensor:2", 4), 4)])
def test_each_request_gets_what_it_gets_alone(plan, rows):
    for one, (tokens, logps) in zip(served(requests(), plan, rows), alone(), strict=True):
        assert one.tokens == tokens
        np.testing.assert_allclose(one.logps, logps, atol=1e-4)


def test_a_row_that_ends_is_replaced_while_others_run():
    taken = []

    def asked():
        for i, request in enumerate(requests()):
            taken.append(i)
            yield request

    order = []
    for one in continuous_batching.completions(*made(), asked(), rows=2, usual=USUAL, chunk=1):
        order.append(one.number)
        assert len(taken) <= len(order) + 1, "a request is taken when a row is free for it, not before"
    assert sorted(order) == list(range(len(PROMPTS))) and order != sorted(order)


def test_requests_may_come_late_and_be_asked_for_each_in_its_own_way():
    greedy = [request._replace(how={"temperature": 0.0}, limit=3) for request in requests()[:2]]
    late = [greedy[0], None, requests()[2], None, None, greedy[1]]
    found = served(late)
    assert [len(one.tokens) <= 3 for one in found] == [True, len(alone()[2][0]) <= 3, True]
    assert found[1].tokens == alone()[2][0]
    batch = sampler.prompts(PROMPTS[:2], 3) | sampler.columns(2, {"temperature": 0.0})
    batch["limit"][:] = 3
    wanted = engine.complete(*made(), batch)
    for one, tokens, n in zip((found[0], found[2]), wanted.tokens, wanted.lengths, strict=True):
        assert one.tokens == tokens[:n].tolist()


def test_a_stop_ends_a_request():
    long = max(range(8), key=lambda i: len(alone()[i][0]))
    tokens = alone()[long][0]
    stop = f" {tokens[2]} {tokens[3]} "

    def decode(ids):
        return " " + "".join(f"{i} " for i in ids)

    found = served([request._replace(ends=(stop,)) for request in requests()], decode=decode)
    assert found[long].tokens == tokens[:4]


def test_what_cannot_be_served_is_refused():
    with pytest.raises(ValueError, match="one host, and one device or the mesh plan"):
        next(continuous_batching.completions(*made("pmap", "", 8), requests(), rows=8, usual=USUAL))
    with pytest.raises(ValueError, match="min_p"):
        served([requests()[0]._replace(how={"min_p": 0.1})])
    with pytest.raises(ValueError, match="the engine was made without"):
        served([requests()[0]._replace(tops=True)])


TOPS = 5


@functools.cache
def telling(kind="pmap", mesh="", devices=1):
    """An engine that tells the likeliest tokens, its parameters, and the model's own log-probabilities f32[T, V]."""
    plan = parallel.make(config.Run(parallel=kind, mesh=mesh), jax.devices()[:devices])
    model = transformer.build(ARCH, tiny.how(local=plan.local))
    told = engine.engine(plan, model, end=END, width=NEW, slots=ROOM, tops=TOPS, most=2)
    params = plan.init(lambda: model.init(jax.random.key(0)), model.axes)

    def forward(ids):
        tokens, places = np.array([ids], np.int32), np.arange(len(ids), dtype=np.int32)[None]
        batch = {"tokens": tokens, "positions": places, "segments": np.ones_like(places)}
        plain = transformer.build(ARCH, tiny.how())
        held = jax.tree.map(np.asarray, params)
        return jax.nn.log_softmax(logits(plain.hidden(held, batch), plain.head(held)))[0]

    return told, told.ready(params, ()), forward


def parts(asked, plan=(), rows=3, **options):
    """The parts of each request, in their order."""
    found = {}
    for part in continuous_batching.completion_parts(
        *telling(*plan)[:2], asked, rows=rows, usual=USUAL, chunk=2, **options
    ):
        found.setdefault(part.number, []).append(part)
    return [found[i] for i in sorted(found)]


@pytest.mark.parametrize(("plan", "rows"), [((), 3), (("mesh", "fsdp:2,tensor:2", 4), 4)])
def test_parts_are_the_whole_and_tell_the_models_own_distribution(plan, rows):
    asked = [
        one._replace(tops=i % 2 == 0, how={"temperature": 0.5 + i / 4}) for i, one in enumerate(requests())
    ]
    found, wanted = parts(asked, plan, rows), served([one._replace(tops=False) for one in asked])
    forward = telling()[2]
    for i, (several, one) in enumerate(zip(found, wanted, strict=True)):
        assert [token for part in several for token in part.tokens] == one.tokens
        assert [part.ended for part in several] == [False] * (len(several) - 1) + [True]
        assert max(len(part.tokens) for part in several) <= 3, "prefill's token, and those of one advance"
        assert all((part.top is None) == (i % 2 == 1) for part in several)
        if i % 2 == 0:
            own, ids, logps = (
                np.concatenate([getattr(p.top, name) for p in several])
                for name in continuous_batching.TokenLogprobs._fields
            )
            told = np.asarray(forward([*PROMPTS[i], *one.tokens]))[len(PROMPTS[i]) - 1 : -1]
            np.testing.assert_allclose(own, told[np.arange(len(own)), one.tokens], atol=1e-4)
            np.testing.assert_allclose(logps, np.take_along_axis(told, ids, 1), atol=1e-4)
            np.testing.assert_allclose(logps, -np.sort(-told, 1)[:, :TOPS], atol=1e-4)


def test_a_request_nobody_waits_for_frees_its_row():
    heard, asked = [], requests()
    long = max(range(8), key=lambda i: len(alone()[i][0]))
    left = asked[long]._replace(waits=lambda: len(heard) < 2)
    for part in continuous_batching.completion_parts(
        *telling()[:2], [left, asked[0]], rows=1, usual=USUAL, chunk=2
    ):
        heard.append(part)
    first = [part for part in heard if part.number == 0]
    assert [len(part.tokens) for part in first] == [3, 2, 0] and first[-1].ended
    assert [token for part in heard if part.number == 1 for token in part.tokens] == alone()[0][0]


def test_a_request_may_have_its_own_decoder():
    long = max(range(8), key=lambda i: len(alone()[i][0]))
    tokens = alone()[long][0]
    stop = f"<{tokens[2]}>"
    given = [
        requests()[long]._replace(ends=(stop,), decode=decode)
        for decode in (lambda ids: "".join(f"<{i}>" for i in ids), lambda ids: "")
    ]
    assert [one.tokens for one in served(given)] == [tokens[: tokens.index(tokens[2]) + 1], tokens]
