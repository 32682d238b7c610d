import dataclasses

import pytest

from jaxtrain.apps.plan.bounds import attention_branches, stage_bounds
from jaxtrain.models import zoo
from tests.apps.plan.modules import module, program, stage

# On a v5e: 1.31e10 FLOPs take 66.5 us, HBM 102.5 us (16 MiB in, 16 and 32 MiB more), the ring of 8 another 293.6 us.
STEP = module(
    """%x = bf16[2048,4096]{1,0} parameter(0)
    %y = f32[2048,4096]{1,0} parameter(1)
    %d = bf16[2048,2048]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={1}
    ROOT %r = f32[2048,4096]{1,0} all-reduce(%y), replica_groups=[1,8]<=[8], to_apply=%add"""
)
FLOPS, HBM, SENT = 2 * 2048 * 2048 * 4096, 2**24 * 2 + 2**23 + 2 * 2**25, 2 * 2**25 * 7 / 8


def test_times_are_work_by_peaks():
    bounds = stage_bounds(stage(program("train step", STEP, tokens=2048)))
    (each,) = bounds.programs
    assert each.products == FLOPS / 197e12
    assert each.memory == HBM / 819e9
    assert each.links == SENT / 100e9  # two axes that do not close: a link each
    assert each.network == 0
    assert bounds.least == max(each.products, each.memory, each.links)
    assert bounds.serial == pytest.approx(each.products + each.memory + each.links)
    assert bounds.tokens == 2048
    assert bounds.mfu == pytest.approx(
        (8e12 / 8 / 197e12 / bounds.serial, min(1, 8e12 / 8 / 197e12 / bounds.least))
    )


RATES = [("s8", "v5e:2x4", 2), ("s8", "v4:2x2x2", 1), ("f8e4m3fn", "v6e:2x4", 1), ("f8e4m3fn", "h100:8", 2)]


@pytest.mark.parametrize(("kind", "chip", "rate"), RATES)
def test_products_of_8_bits_have_the_rate_that_the_chip_has_of_their_type(kind, chip, rate):
    low = STEP.replace("%x = bf16", f"%x = {kind}")
    (plain,) = stage_bounds(stage(program("train step", STEP), chip=chip)).programs
    (each,) = stage_bounds(stage(program("train step", low), chip=chip)).programs
    assert each.cost.eight_bits == {kind: FLOPS} and plain.cost.eight_bits == {}
    assert each.products == pytest.approx(plain.products / rate)


def test_each_program_counts_its_runs():
    programs = program("train step", STEP), program("reshard", STEP, runs=0.25)
    assert stage_bounds(stage(*programs)).serial == pytest.approx(
        1.25 * stage_bounds(stage(programs[0])).serial
    )


def test_at_effort_minus_one_products_alone_bound_a_tpus_step():
    one = program("train step", STEP)
    fast = stage_bounds(stage(one, exact=False))
    assert not fast.final and fast.least == FLOPS / 197e12
    assert fast.serial == stage_bounds(stage(one)).serial
    gpu = stage(one, exact=False, chip="h100:8")
    assert stage_bounds(gpu).final and stage_bounds(gpu).least == SENT / 450e9


def test_decode_reads_its_arguments_for_each_token():
    body = """body:
        %p = (s32[], f32[4,4]) parameter(0)
        %i = s32[] get-tuple-element(%p), index=0
        %one = s32[] constant(1)
        %next = s32[] add(%i, %one)
        %x = f32[4,4] get-tuple-element(%p), index=1
        %y = f32[4,4] negate(%x)
        ROOT %t = (s32[], f32[4,4]) tuple(%next, %y)"""
    less = """less:
        %p = (s32[], f32[4,4]) parameter(0)
        %i = s32[] get-tuple-element(%p), index=0
        %n = s32[] constant(10)
        %k = s32[] custom-call(), custom_call_target="AllocateBuffer"
        %most = s32[] minimum(%k, %n)
        ROOT %l = pred[] compare(%i, %most), direction=LT"""
    loop = "%t = (s32[], f32[4,4]) tuple(%a, %b)\nROOT %w = (s32[], f32[4,4]) while(%t), condition=%less, body=%body"
    text = module(loop, body, less)
    moved = 10 * (2 * 64 + 3 * 4)  # the negation and the counter
    decode = program("decode", text)
    few = decode._replace(memory=decode.memory._replace(arguments=100))
    many = decode._replace(memory=decode.memory._replace(arguments=10**6))
    for each, read in ((few, 10 * 100), (many, moved)):
        assert stage_bounds(stage(each, exact=False)).programs[0].least == pytest.approx(read / 819e9)
    assert stage_bounds(stage(few._replace(name="train step"), exact=False)).programs[0].least == 0
    assert stage_bounds(stage(few)).least == pytest.approx(moved / 819e9)


def test_what_goes_between_hosts_takes_the_network():
    (each,) = stage_bounds(stage(program("train step", STEP), chip="2xv5e:2x2")).programs
    assert each.network == 2 * 2**25 / 8 / 3.125e9 and each.links == (SENT - 2 * 2**25 / 8) / 100e9


def test_sampling_alone_counts_what_it_samples():
    programs = program("prefill", STEP, tokens=5), program("decode", STEP, tokens=7, runs=2)
    assert stage_bounds(stage(*programs, stage="sample")).tokens == 14


def test_nothing_that_fits_has_no_bounds():
    with pytest.raises(ValueError, match="no program fits"):
        stage_bounds(stage())


NONE, KERNEL = frozenset(), frozenset({"__cudnn$fmhaSoftmax"})
LAYER = "jit(f)/while/body/Block/attention/cond"


def test_layers_with_a_window_take_their_branch():
    gemma = zoo.resolve("gemma3-4b")
    far, near = attention_branches(gemma)(LAYER, [NONE, NONE])
    assert near == sum(map(bool, gemma.windows())) / gemma.layers and far + near == 1 and near > 0.8
    assert attention_branches(gemma)("other/cond", [NONE, NONE]) == [0.5, 0.5]
    assert attention_branches(None)(LAYER, [NONE, NONE]) == [0.5, 0.5]
    assert attention_branches(dataclasses.replace(gemma, window=0))(LAYER, [NONE, NONE]) == [1, 0]


def test_packed_rows_take_their_branch():
    of = attention_branches(zoo.resolve("llama3.2-1b"))
    assert of(LAYER, [KERNEL, KERNEL, NONE]) == [0, 1, 0]
    assert of(LAYER, [KERNEL, NONE]) == [0, 1]
    assert of(LAYER, [KERNEL, KERNEL]) == [1, 0]  # a layer's window, and this model has none
