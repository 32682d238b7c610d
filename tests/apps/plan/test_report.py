import re

import pytest

from jaxtrain.apps.plan import report
from jaxtrain.apps.plan.bounds import stage_bounds
from jaxtrain.apps.plan.types import OutOfMemory
from tests.apps.plan.modules import module, program, stage

GIB = 2**30
STEP = module(
    """%x = bf16[2048,4096]{1,0} parameter(0)
    %y = f32[2048,4096]{1,0} parameter(1)
    %d = bf16[2048,2048]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={1}
    %logits = f32[1,2048,128256]{2,1,0} custom-call(%d), custom_call_target="AllocateBuffer"
    ROOT %r = f32[2048,4096]{1,0} all-reduce(%y), replica_groups=[1,8]<=[8], to_apply=%add, metadata={LINE}""".replace(
        "LINE", 'op_name="f" source_file="/me/jaxtrain/models/layers.py" source_line=49'
    )
)
TRAIN = program("train step", STEP, gib=5, tokens=2048)


def text(*programs, **fields) -> str:
    return "\n".join(report.lines(stage(*programs, **fields), 100))


def test_the_program_that_needs_most_decides():
    decode = program("decode", STEP, gib=2, runs=0.25, beside=4 * GIB)
    most = report.fit(stage(TRAIN, decode))
    assert (most.program, most.needed, most.fits) == ("decode", 6 * GIB, True)
    assert not report.fit(stage(TRAIN._replace(beside=11 * GIB), decode)).fits


def test_a_program_that_the_compiler_refuses_does_not_fit():
    refused = OutOfMemory(
        "train step", 1.0, int(55.4 * GIB), int(15.75 * GIB), "RESOURCE_EXHAUSTED: too much"
    )
    most = report.fit(stage(program("decode", STEP, gib=1), refused=(refused,)))
    assert (most.program, most.fits) == ("train step", False)
    shown = text(refused=(refused,), remat="none", batch_size=32)
    assert "DOES NOT FIT. The train step needs 55.40 of 15.75 GiB, 39.65 too many." in shown
    assert "--remat=dots" in shown and "--microbatches=2" in shown
    assert "The step is without what does not fit: train step." in text(
        program("decode", STEP), refused=(refused,)
    )
    silent = refused._replace(needed=0, available=0)
    assert "The compiler refuses the train step: RESOURCE_EXHAUSTED: too much" in text(refused=(silent,))


def test_little_room_is_not_sure_at_effort_minus_one():
    near = TRAIN._replace(beside=int(9.5 * GIB))
    assert "That is close for effort -1: see --exact." in " ".join(text(near, exact=False).split())
    assert "close" not in text(near) and "close" not in text(TRAIN, exact=False)


def test_a_gpu_may_have_more():
    big = TRAIN._replace(beside=60 * GIB)  # 65 of 79.1 GiB
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION=0.83: jax takes 75 %" in " ".join(text(big, chip="h100:8").split())
    assert "jax takes 75 % of a GPU's memory by default" not in text(
        big._replace(beside=70 * GIB), chip="h100:8"
    )


def test_the_report_says_what_fits():
    shown = text(TRAIN)
    assert "pretrain of llama3.2-1b (1.00B parameters) on v5e:2x4: 8 devices, 1 host, mesh fsdp:8" in shown
    assert "not run: every number is a bound" in " ".join(shown.split())
    assert "FITS. At most 5.00 of 15.75 GiB, in the train step; 10.75 left." in shown
    assert "parameters 0.50, optimizer 1.00" in shown and "0.98" in shown  # the logits
    assert "jaxtrain/models/layers.py:49" in shown and "all-reduce of 8" in shown
    assert "MFU" in shown and "--exact" not in shown


def test_at_effort_minus_one_the_report_names_exact():
    shown = text(TRAIN, exact=False)
    assert "Use --exact" in shown and "for the products alone" in shown


def test_a_gpus_report_says_what_jax_takes():
    shown = text(TRAIN, chip="h100:8", exact=False)
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION" in shown and "--exact" not in shown and "effort" not in shown


def test_what_was_not_counted_is_said():
    odd = module(
        """%x = f32[4] parameter(0)
        %k = f32[4] custom-call(%x), custom_call_target="mosaic_gpu"
        ROOT %r = f32[4] all-reduce(%k), replica_groups=odd, to_apply=%add"""
    )
    shown = text(program("train step", odd, tokens=1))
    assert "1 runs of the kernel mosaic_gpu" in shown and "1 collectives were not read" in shown
    assert "Nothing is sent between devices." in shown


def test_decode_is_a_rate():
    loop = """%t = (s32[], f32[99,99]) tuple(%zero, %x)
        ROOT %w = (s32[], f32[99,99]) while(%t), condition=%go, body=%step"""
    step = """step:
        %p = (s32[], f32[99,99]) parameter(0)
        %i = s32[] get-tuple-element(%p), index=0
        %one = s32[] constant(1)
        %next = s32[] add(%i, %one)
        %x = f32[99,99] get-tuple-element(%p), index=1
        %y = f32[99,99] negate(%x)
        ROOT %t = (s32[], f32[99,99]) tuple(%next, %y)"""
    go = """go:
        %p = (s32[], f32[99,99]) parameter(0)
        %i = s32[] get-tuple-element(%p), index=0
        %n = s32[] constant(511)
        %less = pred[] compare(%i, %n), direction=LT
        %any = pred[] custom-call(), custom_call_target="AllocateBuffer"
        ROOT %and = pred[] and(%less, %any)"""
    decode = program("decode", module(loop, step, go), tokens=511 * 8)
    decode = decode._replace(memory=decode.memory._replace(arguments=10**6))
    made = stage(decode, stage="sample", exact=False)
    shown = " ".join(report.lines(made, 100))
    assert "bound by HBM; counted to the last of 511 tokens" in shown


@pytest.mark.parametrize("width", [100, 80, 40])
def test_lines_fit_the_terminal(width):
    made = stage(TRAIN, program("decode", STEP, runs=0.25, tokens=9, beside=GIB), exact=False)
    shown = report.lines(made, width)
    assert max(map(len, shown)) <= width
    assert ("TFLOP" in " ".join(shown)) and len(report.lines(made, 400)) == len(report.lines(made, 100))


def test_collectives_of_one_line_are_one():
    programs = program("train step", STEP), program("annotate", STEP, runs=0.5)
    (only,) = report.merged_collectives(stage_bounds(stage(*programs)))
    assert (only.runs, only.sent) == (1.5, 1.5 * 2 * 2**25 * 7 / 8)


def test_a_row_of_a_table():
    shown = report.row(stage(TRAIN, model_flops=0.11 * 8 * 197e12))  # 110 ms of a v5e's products
    assert re.fullmatch(r"5\.00 of 15\.75 \| 0\.587 to 0\.895 \| \d+ % to 100 %", shown)
    assert report.row(stage(TRAIN._replace(beside=11 * GIB))) == "16.00 of 15.75: does not fit | – | –"
