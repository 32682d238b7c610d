"""Batches of few shapes: what fills a batch up, and where it is cut, changes no completion."""

import functools

import jax
import numpy as np
import pytest

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.generate import batch_sampler, engine
from jaxtrain.generate.batch_sampler import SampleRequest
from jaxtrain.models import transformer
from jaxtrain.train import parallel
from tests import tiny

ARCH = tiny.shrink("gpt2", layers=1, vocab=32, max_len=24)
END, NEW, CONTEXT = 7, 6, 24
PROMPTS = [[1, 5, 9, 2], [3], [4, 4, 6, 1, 2, 3, 9, 30, 11], [8, 2], [1] * 20]
REQUESTS = [
    SampleRequest(ids, [3 * i, 3 * i + 1], limit=4 + i % 2, sampling_params={"temperature": 0.5 + i / 4})
    for i, ids in enumerate(PROMPTS)
]


@functools.cache
def engine_and_params(mesh=""):
    plan = parallel.make(config.Run(mesh=mesh))
    model = transformer.build(ARCH, tiny.how(local=plan.local))
    built = engine.build_engine(plan, model, ends=(END,), max_new=NEW)
    return built, built.ready(plan.init(lambda: model.init(jax.random.key(0)), model.axes), ())


def sample(requests=REQUESTS, size=8):
    return batch_sampler.sample(*engine_and_params(), requests, context=CONTEXT, size=size)


def test_completions_of_a_prompt_stand_together_and_end_at_its_limit_or_the_context():
    completions = sample()
    assert len(completions) == 2 * len(REQUESTS)
    for i, one in enumerate(completions):
        request = REQUESTS[i // 2]
        assert len(one.logps) == len(one.ids) and (one.logps <= 0).all()
        assert one.ids[-1] == END or len(one.ids) == min(request.limit, CONTEXT - len(request.ids))


def test_a_call_that_is_filled_up_or_cut_gives_the_same():
    whole = [one.ids for one in sample()]
    assert [one.ids for one in sample(REQUESTS[:3])] == whole[:6]
    assert [one.ids for one in sample(REQUESTS + REQUESTS[:4], 8)] == whole + whole[:8]


def test_devices_of_a_context_axis_decode_further_rows():
    """A call of as many prompts as the model's plan has shards is filled up to those of the plan to decode."""
    engine, params = engine_and_params("fsdp:2,context:4")
    assert engine.plan.shards == 8
    found = batch_sampler.sample(engine, params, REQUESTS, context=CONTEXT, size=2)
    assert [one.ids for one in found] == [one.ids for one in sample()]


def test_a_streamed_completion_is_the_sampled_one_up_to_its_stop():
    alone = REQUESTS[2]._replace(seeds=[6])

    def decode(ids):
        return "".join(f"<{i}>" for i in ids)

    options = {"context": CONTEXT, "decode": decode, "chunk": 2}
    whole = sample()[4].ids
    assert [
        token for new in batch_sampler.stream(*engine_and_params(), alone, **options) for token in new
    ] == whole
    stopped = alone._replace(stops=(f"<{whole[1]}>",))
    assert [
        token for new in batch_sampler.stream(*engine_and_params(), stopped, **options) for token in new
    ] == whole[:2]


def test_a_prompt_that_fills_the_context_is_named():
    with pytest.raises(ConfigError, match=r"prompt 1 has 24 tokens.*context of 24"):
        sample([REQUESTS[0], REQUESTS[1]._replace(ids=[9] * 24)])


def test_what_fills_a_batch_up_is_empty_and_has_valid_parameters():
    built, _ = engine_and_params()
    batch = batch_sampler.prefill_batch(
        built, [one._replace(seeds=one.seeds[:1]) for one in REQUESTS], CONTEXT
    )
    rows = batch_sampler.local_rows(built, batch, 0, 8)
    assert rows["length"].tolist() == [4, 1, 9, 2, 20, 0, 0, 0] and rows["limit"].tolist()[:5] == [
        4,
        5,
        4,
        5,
        4,
    ]
    np.testing.assert_array_equal(rows["temperature"][4:], np.float32(1.5))
    assert {len(x) for x in rows.values()} == {8}


def test_calls_of_other_numbers_of_prompts_have_few_shapes():
    shapes = [batch_sampler.prompts_per_call(prompts, 1, 2) for prompts in range(1, 400)]
    assert len(set(shapes)) < 25 and all(n % 2 == 0 and n <= batch_sampler.AT_ONCE for n in shapes)
    wasted = [n * -(-prompts // n) / prompts for prompts, n in enumerate(shapes, 1) if prompts > 16]
    assert max(wasted) <= 1.25
    assert [batch_sampler.padded_rows(n, 3) for n in (1, 2, 3, 4, 5, 9)] == [3, 3, 6, 6, 9, 18]
