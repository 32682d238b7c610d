"""The compiled sampler: chunks, stops, shared prefill and slots give what a completion gets alone."""

import functools
import math
import re
import threading

import jax
import numpy as np
import pytest

from jaxtrain import config
from jaxtrain.generate import engine, sampler
from jaxtrain.models import transformer
from jaxtrain.train import device_memory, parallel
from tests import tiny

ARCH = tiny.shrink("gemma2-2b", layers=2, vocab=32)
END, NEW = 7, 12
PROMPTS = [[1, 5, 9, 2], [3], [4, 4, 6, 1, 2, 3, 9, 30, 11], [8, 2], [1, 5, 9, 2], [10, 11, 12], [2, 9], [31]]
PLANS = [("pmap", ""), ("mesh", "fsdp:4,tensor:2")]


@functools.cache
def engine_and_params(kind="pmap", mesh="", scan=False, slots=0, devices=8):
    """An engine and its parameters."""
    plan = parallel.make(config.Run(parallel=kind, mesh=mesh), jax.devices()[:devices])
    model = transformer.build(ARCH, tiny.how(local=plan.local, scan=scan))
    built = engine.build_engine(plan, model, ends=(END,), max_new=NEW, slots=slots)
    return built, built.ready(plan.init(lambda: model.init(jax.random.key(0)), model.axes), ())


def batch(prompts=PROMPTS, seed=3, samples=1, **params):
    return sampler.prompt_batch(prompts, seed, samples=samples) | sampler.sampling_columns(
        len(prompts), sampler.active_params(params)
    )


@functools.cache
def whole(*plan, **params):
    return engine.complete(*engine_and_params(*plan), batch(**params))


def joined(chunks, row):
    return [token for new in chunks for token in new[row]]


@pytest.mark.parametrize("plan", [*PLANS, ("pmap", "", True), ("mesh", "fsdp:4,tensor:2", True)])
def test_every_plan_samples_the_same(plan):
    completions, wanted = whole(*plan), whole()
    assert np.array_equal(completions.tokens, wanted.tokens) and np.array_equal(
        completions.lengths, wanted.lengths
    )
    np.testing.assert_allclose(completions.logps, wanted.logps, atol=1e-4)
    assert len({*wanted.lengths.tolist()}) > 2


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("chunk", [1, 5])
def test_chunks_put_together_are_the_whole(plan, chunk):
    wanted = whole()
    chunks = list(engine.stream(*engine_and_params(*plan), batch(), chunk=chunk))
    assert len(chunks) == 1 + -(-(max(wanted.lengths) - 1) // chunk)
    for i, n in enumerate(wanted.lengths):
        assert joined(chunks, i) == wanted.tokens[i, :n].tolist()


@pytest.mark.parametrize("plan", PLANS)
def test_a_stop_ends_its_row_alone(plan):
    wanted = [row[:n].tolist() for row, n in zip(whole().tokens, whole().lengths, strict=True)]
    long = max(range(8), key=lambda i: len(wanted[i]))
    stop = f" {wanted[long][3]} {wanted[long][4]} "  # over two tokens

    def decode(ids):
        return "".join(f" {token} " for token in ids).replace("  ", " ")

    chunks = list(
        engine.stream(*engine_and_params(*plan), batch(), chunk=4, stops=["nothing", stop], decode=decode)
    )
    completions = [joined(chunks, i) for i in range(8)]
    assert completions[long] == wanted[long][:5] and [*completions[:long], *completions[long + 1 :]] == [
        *wanted[:long],
        *wanted[long + 1 :],
    ]


@pytest.mark.parametrize("plan", PLANS)
def test_samples_of_a_prompt_share_its_prefill_and_are_what_each_gets_alone(plan):
    given = batch(samples=3)
    completions = engine.complete(*engine_and_params(*plan), given)
    for g in range(3):
        alone = engine.complete(*engine_and_params(*plan), {**given, "seed": given["seed"][:, g].copy()})
        assert np.array_equal(completions.tokens[g::3], alone.tokens)
        np.testing.assert_allclose(completions.logps[g::3], alone.logps, atol=1e-5)


@pytest.mark.parametrize("kind", ["pmap", "mesh"])
@pytest.mark.parametrize("samples", [1, 3])
def test_one_cpu_samples_the_halves_of_a_batch_at_once(kind, samples):
    built, params = engine_and_params(kind, devices=1)
    both = threading.Barrier(2, timeout=60)  # is passed only while both are under way

    def prefill(params, rows):
        both.wait()
        return built.prefill(params, rows)

    halved = engine.complete(built._replace(prefill=prefill), params, batch(samples=samples))
    first = engine.complete(built, params, batch(PROMPTS[:1], samples=samples))
    wanted = engine.complete(*engine_and_params(), batch(samples=samples))
    assert np.array_equal(halved.tokens, wanted.tokens) and np.array_equal(halved.lengths, wanted.lengths)
    np.testing.assert_allclose(halved.logps, wanted.logps, atol=1e-4)
    assert np.array_equal(halved.tokens[:samples], first.tokens)


@pytest.mark.parametrize(
    ("prompts", "most", "devices"),
    [(PROMPTS[:3], engine.HALVED, 1), (PROMPTS, 1000, 1), (PROMPTS, engine.HALVED, 2)],
    ids=["odd rows", "large parameters", "two devices"],
)
def test_other_batches_are_sampled_whole(prompts, most, devices, monkeypatch):
    monkeypatch.setattr(engine, "HALVED", most)
    built, params = engine_and_params(devices=devices)
    threads = []

    def prefill(params, rows):
        threads.append(threading.current_thread())
        return built.prefill(params, rows)

    engine.complete(built._replace(prefill=prefill), params, batch(prompts))
    assert threads == [threading.main_thread()]


def largest_gathered(built, params):
    """The most numbers that an all-gather of the compiled decode gives, indices aside."""
    state = built.prefill(params, built.plan.put(batch()))
    text = built.programs[1].lower(params, state, np.int32(3), {}).compile().as_text()
    assert "while(" in text
    shapes = re.findall(r" = \(?f32\[([\d,]+)\][^=\n]* all-gather(?:-start)?\(", text)
    return max((math.prod(map(int, shape.split(","))) for shape in shapes), default=0)


@pytest.mark.parametrize("scan", [False, True])
def test_no_token_gathers_a_parameter(scan):
    built, params = engine_and_params("mesh", "fsdp:8", scan)
    smallest = ARCH.width * ARCH.K * ARCH.C  # kernel of a layer; a token's keys and values are less
    assert largest_gathered(built, params) < smallest


def test_parameters_that_one_device_has_no_room_for_are_split_and_sampled_from_alike(monkeypatch):
    monkeypatch.setattr(device_memory, "capacity", lambda _: 100_000)
    engine_and_params.cache_clear()
    built, params = engine_and_params("mesh", "fsdp:8", True)
    assert built.plan.shards < 8
    completions, wanted = engine.complete(built, params, batch()), whole()
    assert np.array_equal(completions.tokens, wanted.tokens)
    assert 0 < largest_gathered(built, params) <= len(PROMPTS) * ARCH.vocab  # logits, to sample from
    engine_and_params.cache_clear()
