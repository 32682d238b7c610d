import pytest

from jaxtrain.apps.plan import hlo_text
from jaxtrain.apps.plan.memory_traffic import traffic
from tests.apps.plan.modules import module


def of(lines: str, *computations: str) -> float:
    parsed = hlo_text.parse(module(lines, *computations))
    main = parsed.computations["main"]
    return sum(traffic(parsed, main, each) for each in main.instructions.values())


X = "%x = f32[100,10] parameter(0)\n%i = s32[] parameter(1)\n%u = f32[1,10] parameter(2)\n"


@pytest.mark.parametrize(
    ("instruction", "count"),
    [
        ("f32[100,10] add(%x, %x)", 12000),
        ("f32[1,10] dynamic-slice(%x, %i), dynamic_slice_sizes={1,10}", 80),
        ("f32[3,10] gather(%x, %i)", 240),
        ("f32[100,10] dynamic-update-slice(%x, %u, %i)", 80),
        ("f32[10,100] bitcast(%x)", 0),
        ("(f32[100,10], f32[100,10]{1,0:S(1)}, u32[]) copy-start(%x)", 4000),  # to VMEM
        ("((f32[100,10]), f32[5,10]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%x)", 200),
        ("f32[100,10]{1,0:S(1)} add(%x, %x)", 8000),  # stays in VMEM
        ("f32[100,10] copy-done(%x)", 0),
        ("f32[100,10] all-reduce(%x), replica_groups={}", 0),  # counts for itself
        ('f32[100,10] custom-call(), custom_call_target="AllocateBuffer"', 0),
        ('f32[100,10] custom-call(%x), custom_call_target="tpu_custom_call"', 8000),
    ],
)
def test_top_level(instruction, count):
    assert of(f"{X}ROOT %out = {instruction}") == count


SLICED = """inner:
    %x = f32[100,10] parameter(0)
    %i = s32[] parameter(1)
    %row = f32[1,10] dynamic-slice(%x, %i)
    ROOT %y = bf16[1,10] convert(%row)"""
UPDATED = """inner:
    %x = f32[100,10] parameter(0)
    %i = s32[] parameter(1)
    %u = f32[1,10] parameter(2)
    %twice = f32[1,10] add(%u, %u)
    ROOT %y = f32[100,10] dynamic-update-slice(%x, %twice, %i)"""

TUPLE = UPDATED.replace("ROOT ", "") + "\n    ROOT %t = (f32[100,10], f32[1,10]) tuple(%y, %twice)"


@pytest.mark.parametrize(
    ("shape", "operands", "inner", "count"),
    [
        ("bf16[1,10]", "%x, %i", SLICED, 40 + 4 + 20),
        ("f32[100,10]", "%x, %i, %u", UPDATED, 4 + 40 + 40),  # in place: x itself is not touched
        ("f32[100,10]", "%x, %i, %u", UPDATED.replace("add(%u, %u)", "dynamic-slice(%x, %i)"), 40 + 4 + 0 + 40),
        ("(f32[100,10], f32[1,10])", "%x, %i, %u", TUPLE, 4 + 40 + 40 + 40),
        ("f32[]", "%x", "inner:\n%x = f32[100,10] parameter(0)\nROOT %s = f32[] reduce(%x)", 4000 + 4),
        ("f32[10,100]", "%x", "inner:\n%x = f32[100,10] parameter(0)\nROOT %s = f32[10,100] transpose(%x)", 8000),
    ],
)  # fmt: skip
def test_fusions(shape, operands, inner, count):
    assert of(f"{X}ROOT %f = {shape} fusion({operands}), kind=kLoop, calls=%inner", inner) == count


@pytest.mark.parametrize(("inner", "result"), [(SLICED, "bf16[1,10]"), (TUPLE, "(f32[100,10], f32[1,10])")])
def test_a_fusion_that_is_started_moves_what_one_that_is_waited_for_does(inner, result):
    """XLA's compiler for GPUs has slices of scanned arrays in such fusions from jax 0.11 on."""
    operands = "%x, %i" if inner is SLICED else "%x, %i, %u"
    started = (
        f"{X}%s = (({result}), {result}, u32[]) fusion-start({operands}), kind=kLoop, calls=%inner\n"
        f"ROOT %d = {result} fusion-done(%s)"
    )
    waited = f"{X}ROOT %f = {result} fusion({operands}), kind=kLoop, calls=%inner"
    assert of(started, inner) == of(waited, inner) > 0


def test_a_fusion_in_a_fusion():
    outer = """outer:
        %x = f32[100,10] parameter(0)
        %i = s32[] parameter(1)
        ROOT %f = bf16[1,10] fusion(%x, %i), kind=kLoop, calls=%inner"""
    assert of(f"{X}ROOT %f = bf16[1,10] fusion(%x, %i), kind=kLoop, calls=%outer", outer, SLICED) == 64


def test_operands_in_vmem_are_not_read():
    lines = "%x = f32[100,10]{1,0:S(1)} parameter(0)\n%i = s32[] parameter(1)\n"
    assert of(f"{lines}ROOT %f = bf16[1,10] fusion(%x, %i), kind=kLoop, calls=%inner", SLICED) == 4 + 20
