import jax
import jax.numpy as jnp

from jaxtrain.apps.plan.program_cost import cost
from tests.apps.plan.modules import module

STEP = """step:
    %p = (s32[], f32[4,4]) parameter(0)
    %i = s32[] get-tuple-element(%p), index=0
    %one = s32[] constant(1)
    %next = s32[] add(%i, %one)
    %x = f32[4,4] get-tuple-element(%p), index=1
    %y = f32[4,4] dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
    %z = f32[4,4] all-reduce(%y), channel_id=1, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
    ROOT %t = (s32[], f32[4,4]) tuple(%next, %z)"""
BELOW_TEN = """below_ten:
    %p = (s32[], f32[4,4]) parameter(0)
    %i = s32[] get-tuple-element(%p), index=0
    %n = s32[] constant(10)
    ROOT %less = pred[] compare(%i, %n), direction=LT"""
LOOP = """%zero = s32[] constant(0)
    %x = f32[4,4] parameter(0)
    %t = (s32[], f32[4,4]) tuple(%zero, %x)
    ROOT %w = (s32[], f32[4,4]) while(%t), condition=%below_ten, body=%step"""


def test_a_loops_body_counts_as_often_as_it_runs():
    found = cost(module(LOOP, STEP, BELOW_TEN))
    (each,) = found.collectives
    assert found.flops == 10 * 2 * 4 * 4 * 4
    assert (each.runs, each.in_loop, each.group) == (10, True, 4)
    assert found.sent == 10 * 2 * 64 * 3 / 4 and found.crossing == 0
    # The counter and its step, two operands and a result of the product, the collective's operand and result.
    assert found.memory == 10 * (4 + 4 + 4 + 3 * 64 + 2 * 64)
    assert found.iterations == 0 and not found.unknown and not found.unread


def test_what_crosses_domains():
    assert cost(module(LOOP, STEP, BELOW_TEN), domain=2).crossing == 10 * 2 * 64 / 4


def test_a_loop_without_an_end_has_iterations():
    open_ended = BELOW_TEN.replace("ROOT %less", "%less") + (
        '\n    %x = pred[] custom-call(), custom_call_target="any"\n    ROOT %go = pred[] and(%less, %x)'
    )
    found = cost(module(LOOP, STEP, open_ended))
    assert found.iterations == 10 and found.flops == 10 * 128


def test_branches_are_weighted():
    branches = [
        f"{name}:\n%x = f32[4,{k}] parameter(0)\nROOT %y = f32[4,4] dot(%x, %x), lhs_contracting_dims={{1}}"
        for name, k in (("near", 2), ("far", 8))
    ]
    text = module(
        """%i = s32[] parameter(0)
        %x = f32[4,4] parameter(1)
        ROOT %c = f32[4,4] conditional(%i, %x, %x), branch_computations={%near, %far}""",
        *branches,
    )
    assert cost(text).flops == (2 * 16 * 2 + 2 * 16 * 8) / 2
    assert cost(text, branches=lambda name, calls: [0.75, 0.25]).flops == 0.75 * 64 + 0.25 * 256
    old = text.replace("branch_computations={%near, %far}", "true_computation=%far, false_computation=%near")
    assert cost(old, branches=lambda name, calls: [1, 0]).flops == 64


def test_an_asynchronous_collective_counts_once():
    gather = "%g = f32[32] all-gather(%x), channel_id=7, replica_groups=[1,8]<=[8]"
    start = f"""start:
        %x = f32[4] parameter(0)
        {gather}
        ROOT %s = f32[32] custom-call(%g), custom_call_target="AsyncCollectiveStart" """
    beside = f"beside:\n%x = f32[4] parameter(0)\n{gather}\nROOT %y = f32[4] add(%x, %x)"
    text = module(
        """%x = f32[4] parameter(0)
        %a = f32[32] fusion(%x), kind=kCustom, calls=%start
        %b = f32[4] fusion(%x), kind=kLoop, calls=%beside
        ROOT %c = f32[4] fusion(%x), kind=kLoop, calls=%beside2""",
        start,
        beside,
        beside.replace("beside", "beside2"),
    )
    assert cost(text).sent == 16 * 7


def test_start_and_done_count_once():
    text = module(
        """%x = f32[4] parameter(0)
        %s = (f32[4], f32[32]) all-gather-start(%x), channel_id=7, replica_groups=[1,8]<=[8]
        ROOT %d = f32[32] all-gather-done(%s)"""
    )
    found = cost(text)
    assert found.sent == 16 * 7 and found.memory == 16 + 128 and len(found.collectives) == 1


def test_what_is_not_understood_is_counted():
    text = module(
        """%x = f32[4] parameter(0)
        %k = f32[4] custom-call(%x), custom_call_target="mosaic_gpu"
        ROOT %r = f32[4] all-reduce(%k), replica_groups=odd, to_apply=%add"""
    )
    found = cost(text)
    assert found.unknown == {"mosaic_gpu": 1} and list(found.unread.values()) == [1]


def compiled(f, *shapes) -> str:
    return jax.jit(f).lower(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes)).compile().as_text()


def test_a_compiled_scan_of_products():
    def scan(x, w):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]

    found = cost(compiled(scan, (16, 32), (7, 32, 32)))
    assert found.flops == 7 * 2 * 16 * 32 * 32
    # Each step reads its 32 x 32 weights, not all seven.
    assert 7 * 4 * 32 * 32 <= found.memory < 3 * 7 * 4 * (32 * 32 + 4 * 16 * 32)


def test_a_compiled_gradient():
    def loss(w, x):
        return jnp.square((x @ w[0]) @ w[1]).sum()

    text = compiled(jax.grad(loss), (2, 64, 64), (8, 64))
    assert (
        cost(text).flops == 5 * 2 * 8 * 64 * 64
    )  # forward two products; backward two for weights, one for activations


def test_compiled_collectives():
    mesh = jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:4])
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    lowered = jax.jit(lambda x, w: (x @ w).sum(0), in_shardings=(rows, whole), out_shardings=whole).lower(
        jax.ShapeDtypeStruct((8, 16), jnp.float32), jax.ShapeDtypeStruct((16, 32), jnp.float32)
    )
    found = cost(lowered.compile().as_text())
    assert found.flops == 2 * 2 * 16 * 32  # two of eight rows
    (each,) = found.collectives
    assert (each.kind, each.group, each.sent) == ("all-reduce", 4, 2 * 4 * 32 * 3 / 4)
