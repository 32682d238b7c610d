"""Conversations that grow on a kept KV cache, against a prefill of the whole at each turn."""

import itertools
import types

import jax
import numpy as np
import pytest

from jaxtrain import config
from jaxtrain.generate import turn_sampler
from jaxtrain.generate.batch_sampler import SampleRequest
from jaxtrain.models import transformer
from jaxtrain.rl import request_samplers
from jaxtrain.stages import sampling
from jaxtrain.train import parallel
from tests import tiny

END, NEW, LONGEST = 7, 6, 60
STARTS = [[1, 5, 9, 2], [3], [4] * 17, [8, 2], [1, 5, 9, 2], [6, 6]]


def session_of(name, devices=1, **flags):
    arch = tiny.shrink(name, layers=2, vocab=32, max_len=64)
    plan = parallel.make(config.Run(**flags), jax.devices()[:devices])
    model = transformer.build(arch, tiny.how(local=plan.local))
    trained = types.SimpleNamespace(whole=lambda params, base: params)
    params = plan.init(lambda: model.init(jax.random.key(0)), model.axes)
    return types.SimpleNamespace(plan=plan, model=model, arch=arch, trained=trained), params


def turns(session, params, make, ended=()):
    """The completions of four turns; the rows `ended` at turn 1 do not go on, at turn 2 two more."""
    sample = make(session, (END,), max_new=NEW)(params, ())
    rows, found = {i: list(ids) for i, ids in enumerate(STARTS)}, []
    for turn in range(4):
        for i in {1: ended, 2: (2, 5)}.get(turn, ()):
            rows.pop(i, None)
        requests = [
            SampleRequest(ids, [10 * turn + i], LONGEST - len(ids), {"temperature": 0.7})
            for i, ids in rows.items()
        ]
        done = sample(requests, 8)
        found.append([(one.ids, one.ended, one.logps) for one in done])
        for i, one in zip(rows, done, strict=True):
            rows[i] += [*one.ids, *range(10, 11 + (i + turn) % 3)]
    return found


def of_turns(session, ends, *, max_new):
    return request_samplers.of_turns(session, ends, max_new=max_new, longest=LONGEST)


@pytest.mark.parametrize(
    "name, devices, flags",
    [
        ("gpt2", 1, {}),
        ("llama2-7b", 1, {}),
        ("llama2-7b", 2, {"parallel": "pmap"}),
        ("llama2-7b", 2, {"parallel": "mesh", "mesh": "fsdp:2"}),
    ],
)
def test_turns_on_a_kept_cache_are_those_of_whole_prefills(monkeypatch, name, devices, flags):
    session, params = session_of(name, devices, **flags)
    prefills = []
    rows_of = turn_sampler._rows_of
    monkeypatch.setattr(turn_sampler, "_rows_of", lambda *a: prefills.append(rows_of(*a)) or prefills[-1])
    kept = turns(session, params, of_turns, ended=(1, 3))
    assert prefills == [[0, 2, 4, 5], [0, 4], [0, 4]], "each turn goes on from its rows"
    whole = turns(session, params, sampling.request_sampler, ended=(1, 3))
    for one, other in zip(itertools.chain(*kept), itertools.chain(*whole), strict=True):
        assert one[:2] == other[:2]
        np.testing.assert_allclose(one[2], other[2], rtol=1e-4, atol=1e-5)


def test_requests_that_go_on_from_nothing_are_prefilled(monkeypatch):
    session, params = session_of("gpt2")
    sample = of_turns(session, (END,), max_new=NEW)(params, ())
    plain = sampling.request_sampler(session, (END,), max_new=NEW)(params, ())
    first = [SampleRequest(ids, [i]) for i, ids in enumerate(STARTS)]
    changed = [SampleRequest([9, 9, *ids], [i]) for i, ids in enumerate(STARTS)]
    two = [one._replace(seeds=[5, 6]) for one in first]
    order = ((first, 8), (changed, 8), (first[::-1], 8), (first[:2], 2), (first, 4), (two, 8), (first, 8))
    for requests, size in order:
        for one, other in zip(sample(requests, size), plain(requests, size), strict=True):
            assert (one.ids, one.ended) == (other.ids, other.ended)
            np.testing.assert_allclose(one.logps, other.logps, rtol=1e-4, atol=1e-5)
