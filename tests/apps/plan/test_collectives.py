import pytest

from jaxtrain.apps.plan import hlo_text
from jaxtrain.apps.plan.collectives import Collective, collective, kind_of, replica_groups
from tests.apps.plan.modules import module

GROUPS = "replica_groups=[1,8]<=[8]"


def of(instruction: str, domain: int = 8, devices: int = 8) -> Collective:
    parsed = hlo_text.parse(
        module(f"%x = f32[64,2]{{1,0}} parameter(0)\nROOT %c = {instruction}", devices=devices)
    )
    main = parsed.computations["main"]
    return collective(parsed, main, main.instructions["c"], domain, 1.0, False)


@pytest.mark.parametrize(
    ("instruction", "kind", "group", "sent"),
    [
        (f"f32[512,2] all-gather(%x), {GROUPS}, dimensions={{0}}", "all-gather", 8, 512 * 7),
        (f"(f32[64,2], f32[512,2]) all-gather-start(%x), {GROUPS}", "all-gather", 8, 512 * 7),
        (f"f32[64,2] all-reduce(%x), {GROUPS}, to_apply=%add", "all-reduce", 8, 2 * 512 * 7 / 8),
        ("f32[64,2] all-reduce(%x), replica_groups={{0,1},{2,3},{4,5},{6,7}}", "all-reduce", 2, 512),
        (f"f32[8,2] reduce-scatter(%x), {GROUPS}, dimensions={{0}}", "reduce-scatter", 8, 512 * 7 / 8),
        (f"f32[64,2] all-to-all(%x), {GROUPS}", "all-to-all", 8, 512 * 7 / 8),
        ("f32[64,2] collective-permute(%x), source_target_pairs={{0,1},{1,0}}", "collective-permute", 2, 512),
        (f"f32[64,2] collective-broadcast(%x), {GROUPS}", "collective-broadcast", 8, 512),
        ("f32[64,2] all-reduce(%x), replica_groups={}, to_apply=%add", "all-reduce", 8, 2 * 512 * 7 / 8),
    ],
)
def test_a_ring_sends(instruction, kind, group, sent):
    found = of(instruction)
    assert (found.kind, found.group, found.sent, found.crossing) == (kind, group, sent, 0)


@pytest.mark.parametrize(
    ("instruction", "crossing"),
    [
        (f"f32[512,2] all-gather(%x), {GROUPS}", 512),  # the other half of 8 shards, over 4 devices
        (f"f32[64,2] all-reduce(%x), {GROUPS}", 2 * 512 / 8),
        (f"f32[8,2] reduce-scatter(%x), {GROUPS}", 512 / 8),
        (f"f32[64,2] all-to-all(%x), {GROUPS}", 256),
        ("f32[64,2] collective-permute(%x), source_target_pairs={{3,4}}", 512),
        ("f32[64,2] collective-permute(%x), source_target_pairs={{2,3},{4,5}}", 0),
        ("f32[256,2] all-gather(%x), replica_groups={{0,1,2,3},{4,5,6,7}}", 0),
        ("f32[128,2] all-gather(%x), replica_groups=[4,2]<=[2,4]T(1,0)", 512),
    ],
)
def test_what_crosses_hosts_of_four(instruction, crossing):
    assert of(instruction, domain=4).crossing == crossing


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("{{0,2},{1,3}}", [[0, 2], [1, 3]]),
        ("[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
        ("{}", [[0, 1, 2, 3]]),
        ("mesh['a'=2,'b'=2] {'b'}", [[0, 1], [2, 3]]),
        ("mesh['a'=2,'b'=2] {'a'}", [[0, 2], [1, 3]]),
        ("mesh['a'=2,'b'=1,'c'=2] {'a','b'}", [[0, 2], [1, 3]]),
        ("mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}", [[0, 2], [1, 3]]),
        ("mesh['a'=4] {'a'}", [[0, 1, 2, 3]]),
    ],
)
def test_groups_in_every_form(text, groups):
    attributes = f"channel_id=3, replica_groups={text}, use_global_device_ids=true, to_apply=%add"
    lines = f"%x = f32[2] parameter(0)\nROOT %c = f32[2] all-reduce(%x), {attributes}"
    parsed = hlo_text.parse(module(lines, devices=4))
    assert replica_groups(parsed, parsed.computations["main"].instructions["c"]) == groups


def test_groups_in_another_form_are_no_guess():
    with pytest.raises(ValueError, match="form that is not known: whatever"):
        of("f32[64,2] all-reduce(%x), replica_groups=whatever, to_apply=%add")


def test_several_arrays_at_once():
    lines = """%x = bf16[4,2] parameter(0)
        %y = bf16[8] parameter(1)
        ROOT %c = ((bf16[4,2], bf16[8]), (bf16[32,2], bf16[64])) all-gather-start(%x, %y), replica_groups=[1,8]<=[8]"""
    parsed = hlo_text.parse(module(lines))
    main = parsed.computations["main"]
    found = collective(parsed, main, main.instructions["c"], 8, 2.0, True)
    assert (found.sent, found.shape, found.runs, found.in_loop) == (32 * 7, "bf16[4,2], bf16[8]", 2.0, True)


def test_the_line_of_what_was_combined():
    lines = """%x = f32[4] parameter(0)
        %y = f32[4] fusion(%x), kind=kLoop, calls=%inner
        ROOT %c = f32[4] all-reduce(%y), replica_groups=[1,8]<=[8]"""
    inner = """inner:
        ROOT %a = f32[4] parameter(0), metadata={op_name="f" source_file="/me/jaxtrain/ops/x.py" source_line=7}"""
    parsed = hlo_text.parse(module(lines, inner))
    main = parsed.computations["main"]
    assert collective(parsed, main, main.instructions["c"], 8, 1.0, False).source == "jaxtrain/ops/x.py:7"


def test_an_all_reduce_and_its_slice_are_a_reduce_scatter():
    inner = """all-reduce-scatter.1:
        %x = f32[64,2] parameter(0)
        %r = f32[64,2] all-reduce(%x), replica_groups=[1,8]<=[8]
        ROOT %s = f32[8,2] dynamic-slice(%r)"""
    parsed = hlo_text.parse(module("ROOT %a = f32[] parameter(0)", inner))
    within = parsed.computations["all-reduce-scatter.1"]
    found = collective(parsed, within, within.instructions["r"], 8, 1.0, False)
    assert (found.kind, found.sent) == ("reduce-scatter", 512 * 7 / 8)


def test_kinds():
    lines = "%a = f32[2] parameter(0)\n%b = f32[2] all-gather-done(%a)\nROOT %c = f32[2] all-gather-start(%a)"
    main = hlo_text.parse(module(lines)).computations["main"]
    assert [kind_of(main.instructions[name]) for name in "abc"] == ["", "", "all-gather"]
