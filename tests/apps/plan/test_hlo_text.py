import pytest

from jaxtrain.apps.plan import hlo_text
from tests.apps.plan.modules import module

TABLES = """FileNames
1 "/home/me/jaxtrain/train/step.py"
2 "/usr/lib/python3.11/site-packages/optax/update.py"
3 "/home/me/jaxtrain/models/layers.py"

FunctionNames
1 "train_step"

FileLocations
1 {file_name_id=1 function_name_id=1 line=58 end_line=58 column=4 end_column=9}
2 {file_name_id=2 function_name_id=1 line=7 end_line=7 column=4 end_column=9}
3 {file_name_id=3 function_name_id=1 line=49 end_line=49 column=4 end_column=9}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}
3 {file_location_id=3 parent_frame_id=2}
"""


def only(lines: str, **how) -> tuple[hlo_text.HloProgram, hlo_text.Computation]:
    parsed = hlo_text.parse(module(lines, **how))
    return parsed, parsed.computations["main"]


def test_an_instruction_is_read():
    _, main = only(
        """%a = f32[2,3]{1,0} parameter(0)
        %b = f32[3,4]{1,0:T(8,128)} parameter(1)
        ROOT %dot.1 = f32[2,4]{1,0} dot(%a, %b), lhs_contracting_dims={1}, metadata={op_name="jit(f)/dot(x)"}"""
    )
    dot = main.instructions["dot.1"]
    assert (dot.opcode, dot.operands, dot.op_name) == ("dot", ("a", "b"), "jit(f)/dot(x)")
    assert dot.shapes[0].dims == (2, 4) and dot.shapes[0].size == 32
    assert main.root == "dot.1" and main.users == {"a": ("dot.1",), "b": ("dot.1",)}
    assert main.parameter(1).name == "b" and main.parameter(2) is None
    assert main.operand(dot, 1).name == "b" and main.operand(dot, 2) is None


def test_tuples_comments_and_attributes_of_several_lines():
    _, main = only(
        """%a = (f32[2]{0:T(256)}, (bf16[4]{0}, s32[]), /*index=3*/pred[]) custom-call(), custom_call_target="x", meta={
"block": "{\\"q\\": 512}"
}, metadata={op_name="kernel"}
        ROOT %b = f32[2]{0} get-tuple-element(%a), index=0"""
    )
    assert [s.dtype for s in main.instructions["a"].shapes] == ["f32", "bf16", "s32", "pred"]
    assert main.instructions["a"].op_name == "kernel" and '"q' in main.instructions["a"].attributes
    assert main.instructions["b"].operands == ("a",)


@pytest.mark.parametrize(
    ("text", "size", "space"),
    [
        ("f32[10,20]{1,0}", 800, 0),
        ("bf16[1,2048,1,32]{3,1,2,0:T(8,128)(2,1)}", 2 * 2048 * 128, 0),  # 32 lie in tiles of 128
        ("f32[5,100]{0,1:T(8,128)}", 4 * 128 * 104, 0),
        ("f32[3]{0:T(1024)S(1)}", 4096, 1),
        ("s4[10]{0:E(4)}", 5, 0),
        ("f32[<=8,4]{1,0}", 128, 0),
        ("pred[]", 1, 0),
    ],
)
def test_sizes_are_those_in_memory(text, size, space):
    (shape,) = hlo_text.shapes(text)
    assert (shape.size, shape.space) == (size, space)


@pytest.mark.parametrize(
    ("metadata", "line"),
    [
        ("stack_frame_id=1", "jaxtrain/train/step.py:58"),
        ("stack_frame_id=2", "jaxtrain/train/step.py:58"),  # optax's own line is in no file of ours
        ("stack_frame_id=3", "jaxtrain/models/layers.py:49"),
        ('source_file="/x/experiments/plan.py" source_line=12', "experiments/plan.py:12"),
        ("stack_frame_id=9", ""),
        ("", ""),
    ],
)
def test_source_lines(metadata, line):
    lines = f'ROOT %a = f32[] parameter(0), metadata={{op_name="x" {metadata}}}'
    parsed, main = only(lines, tables=TABLES)
    assert hlo_text.source(parsed, main.instructions["a"]) == line


def test_devices():
    assert only("ROOT %a = f32[] parameter(0)", devices=16)[0].devices == 16


def test_what_is_no_hlo_is_refused():
    with pytest.raises(ValueError, match="no ENTRY computation"):
        hlo_text.parse("def f(): ...")
    with pytest.raises(ValueError, match="not closed"):
        hlo_text.parse(module("ROOT %a = f32[2]{0} add(%b, %c"))
