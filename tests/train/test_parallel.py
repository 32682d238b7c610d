"""Plans on eight virtual devices: where arrays lie, and that what a plan makes another can go on with."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.models import transformer
from jaxtrain.models.zoo import ZOO
from jaxtrain.objectives.next_token import next_token
from jaxtrain.train import optim, parallel
from jaxtrain.train.checkpoint import Checkpoints
from jaxtrain.train.step import init_state, train_step
from tests import tiny


def plan_of(mesh="", kind="auto", rows=16, microbatches=1, devices=8):
    plan = parallel.make(config.Run(mesh=mesh, parallel=kind), jax.devices()[:devices])
    plan.check_batch(rows, microbatches)
    return plan


def mesh_of(**sizes):
    shape = [sizes.get(axis, 1) for axis in config.MESH_AXES]
    return jax.make_mesh(shape, config.MESH_AXES, axis_types=(AxisType.Auto,) * len(shape))


@pytest.mark.parametrize("name", ZOO)
def test_every_axis_of_every_model_has_a_rule_and_no_mesh_axis_comes_twice(name):
    mesh = mesh_of(data=2, fsdp=2, tensor=2)
    arch = ZOO[name] if ZOO[name].vocab else tiny.shrink(name)
    model = tiny.model(arch)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    for path, leaf in jax.tree.leaves_with_path(shapes):
        names = model.axes[tuple(entry.key for entry in path)]
        assert len(names) == leaf.ndim
        spec = parallel.partition_spec(mesh, names, leaf.shape)
        if leaf.size > 400_000:  # more than the scales of a norm in all layers
            assert any(spec), f"{path} {names} lies whole on every device"


def test_an_unknown_axis_and_a_mesh_axis_used_twice_are_refused():
    mesh = mesh_of(fsdp=2, tensor=4)
    with pytest.raises(KeyError, match="logical axis 'width' is not in the rules"):
        parallel.partition_spec(mesh, ("width",), (8,))
    with pytest.raises(ValueError, match="use mesh axis tensor twice"):
        parallel.partition_spec(mesh, ("heads", "ff"), (8, 8))
    with pytest.raises(ValueError, match="use mesh axis fsdp twice"):
        parallel.partition_spec(mesh, ("batch", "embed"), (8, 8))  # a batch lies over data and fsdp
    assert tuple(parallel.partition_spec(mesh, ("layers", "embed", "ff"), (3, 8, 8))) == (
        None,
        ("fsdp", "context"),
        "tensor",
    )


def test_scales_of_norms_lie_whole_on_every_device():
    mesh = mesh_of(fsdp=8)
    for names, shape in ((("embed",), (8,)), (("layers", "embed"), (3, 8)), (("members", "embed"), (2, 8))):
        assert not any(parallel.partition_spec(mesh, names, shape))
    assert any(parallel.partition_spec(mesh, ("embed", None), (8, 3)))
    plan, model, start, _ = built("fsdp:8")
    scale = plan.init(start, model.axes).params["norm"]["scale"]
    assert scale.is_fully_replicated


def test_a_dimension_that_does_not_divide_stays_whole_and_says_so(caplog):
    parallel._say_whole.cache_clear()
    mesh = mesh_of(fsdp=2, tensor=4)
    with caplog.at_level("WARNING", logger="absl"):
        assert tuple(parallel.partition_spec(mesh, ("embed", "kv"), (8, 2))) == (("fsdp", "context"), None)
        assert tuple(parallel.partition_spec(mesh, ("embed", "kv"), (8, 2))) == (("fsdp", "context"), None)
    assert caplog.messages == ["axis kv of size 2 does not divide over tensor:4 and stays whole"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"rows": 12},
            r"--batch_size=12 does not split over 8 devices x --microbatches=1: use a multiple of 8",
        ),
        ({"rows": 16, "microbatches": 4}, r"use a multiple of 32"),
        ({"rows": 6, "mesh": "fsdp:4,tensor:2"}, r"does not split over 4 devices"),
        (
            {"mesh": "fsdp:4"},
            r"--mesh=fsdp:4 takes 4 devices, there are 8: use --mesh=data:2,fsdp:4 or fsdp:8 or ",
        ),
        (
            {"mesh": "fsdp:3,data:-1"},
            r"--mesh=fsdp:3,data:-1 takes a multiple of 3 devices, there are 8: use --mesh=data:2,fsdp:4 or ",
        ),
        ({"mesh": "fsdp:16,data:-1"}, r"takes a multiple of 16 devices, there are 8: use --mesh=fsdp:8 or "),
    ],
)
def test_what_does_not_divide_is_refused(flags, message):
    with pytest.raises(ConfigError, match=message):
        plan_of(**flags)


@pytest.mark.parametrize("mesh", ["data:2,context:4", "fsdp:2,context:2,tensor:2"])
def test_a_device_holds_a_part_of_the_time_of_its_rows(mesh):
    """Columns like tokens are split; prompts, scores and what has no time lie by row."""
    plan = plan_of(mesh)
    rows, T, N = 8, 16, 2
    pairs = np.arange(rows * N * T, dtype=np.int32).reshape(rows, N, T)
    batch = {
        "tokens": pairs, "mask": pairs.astype("f"), "prefer": np.zeros((rows, N, N), "f"),
        "row": np.arange(rows, dtype=np.int32), "ptx/tokens": pairs[:, 0, :8], "ptx_scale": np.ones(rows, "f"),
    }  # fmt: skip
    placed = plan.put(batch)
    C, shards = plan.context, plan.shards
    shapes = {name: {s.data.shape for s in x.addressable_shards} for name, x in placed.items()}
    assert shapes["tokens"] == shapes["mask"] == {(rows // shards, N, T // C)}
    assert shapes["ptx/tokens"] == {(rows // shards, 8 // C)}
    assert shapes["prefer"] == {(rows // shards, N, N)} and shapes["row"] == {(rows // shards,)}
    assert all(np.array_equal(plan.get(placed)[name], x) for name, x in batch.items())
    of_row = [s.data for s in placed["tokens"].addressable_shards if 0 in np.arange(rows)[s.index[0]]]
    assert len({np.asarray(x).tobytes() for x in of_row}) == C, "each device along context has its own part"
    prompts = plan.put({"prompt": np.ones((rows, 16), np.int32)})["prompt"]
    assert {s.data.shape for s in prompts.addressable_shards} == {(rows // shards, 16)}


def test_rows_that_do_not_split_over_context_are_refused():
    message = r"rows of 12 tokens do not split over context:4.* set --seq_len to a multiple of 8, or another context"
    plan = plan_of("data:2,context:4")
    with pytest.raises(ConfigError, match=message):
        plan.check_batch(16, 1, 12)
    with pytest.raises(ConfigError, match=message):
        plan.put({"tokens": np.zeros((8, 12), np.int32)})
    plan.check_batch(6, 3, 16)  # rows need only split over data x fsdp
    with pytest.raises(ConfigError, match="--parallel=mesh"):
        plan_of("data:2,context:4", "pmap")


def test_the_plan_that_the_flags_name():
    assert plan_of().name == "pmap" and plan_of().shards == 8
    assert plan_of("data:8").name == "pmap"
    assert plan_of(kind="mesh").name == "mesh"
    sharded = plan_of("data:2,fsdp:-1,tensor:2")
    assert (sharded.name, sharded.shards) == ("mesh", 4)


ARCH = tiny.shrink("llama2-7b", layers=1, width=32, heads=4, kv_heads=0, ff=64, vocab=64)
TX = optim.optimizer(config.Optim(optimizer="lion", warmup=0, lr=1e-2, ema=0.5), 10, tiny.model(ARCH).axes)


@functools.cache
def built(mesh, kind="auto", devices=8):
    """(plan, model, start of the state, compiled step)."""
    plan = plan_of(mesh, kind, devices=devices)
    model = transformer.build(ARCH, tiny.how(local=plan.local))

    def start():
        return init_state(model.init(jax.random.key(0)), TX, jax.random.key(1))

    return (
        plan,
        model,
        start,
        plan.step(functools.partial(train_step, objective=functools.partial(next_token, model=model), tx=TX)),
    )


BATCH = tiny.batch(16, 12, 64)


def test_parameters_and_what_mirrors_them_are_born_in_shards():
    plan, model, start, step = built("fsdp:4,tensor:2")
    state = plan.init(start, model.axes)
    whole = sum(x.nbytes for x in jax.tree.leaves(state.params))
    for tree, copies in ((state.params, 1), (state.opt_state, 2)):
        assert sum(x.nbytes for x in jax.tree.leaves(tree)) == pytest.approx(copies * whole, rel=1e-3)
        for device in range(8):
            held = sum(x.addressable_shards[device].data.nbytes for x in jax.tree.leaves(tree))
            assert held < copies * whole / 8 * 1.15, "norms may lie on several devices, nothing else"
    wanted = plan.abstract(start, model.axes)
    after, _ = step(state, (), plan.put(BATCH))
    for a, b in zip(jax.tree.leaves(wanted), jax.tree.leaves(after), strict=True):
        assert a.sharding.is_equivalent_to(b.sharding, b.ndim) and a.shape == b.shape and a.dtype == b.dtype


@pytest.mark.parametrize("mesh", ["fsdp:8", "fsdp:4,tensor:2"])
def test_constraints_on_activations_are_not_inert(mesh):
    """The lowered forward pass names where f[B, T, D] lies: the residual stream, and what reads its whole rows."""
    plan, model, start, _ = built(mesh)
    batch, state = plan.put(BATCH), plan.init(start, model.axes)
    run = plan.step(lambda p, _, b: model.hidden(p, b), donate=False)
    text = run.lower(state.params, (), batch).as_text()
    constraints = re.findall(r"sharding_constraint %\d+ <@\w+, (.*)> : tensor<16x12x32xf32>", text)
    stream, rows = (
        f'[{{"data", "fsdp", "expert"}}, {{{time}}}, {{}}]' for time in ('"context", "tensor"', '"context"')
    )
    assert constraints.count(stream) > 2 * ARCH.layers and constraints.count(rows) > 2 * ARCH.layers


def test_state_moves_between_plans_to_the_bit(tmp_path):
    """Two steps under pmap, then to mesh, to disk, and back to pmap: nothing changes but where it lies."""
    one, model, start, step = built("", devices=2)
    state = one.init(start, model.axes)
    for _ in range(2):
        state, _ = step(state, (), one.put(BATCH))
    wanted = one.get(jax.tree.map(plain, state))
    with Checkpoints(tmp_path, 3) as saved:
        saved.save(2, state, {})
    two, model2, start2, _ = built("fsdp:2", devices=2)
    with Checkpoints(tmp_path, 3) as saved:
        state, _ = saved.restore(two.abstract(start2, model2.axes))
        assert {s.data.shape for s in state.params["embed"].addressable_shards} == {(64, 16)}
        assert same(two.get(jax.tree.map(plain, state)), wanted)
        saved.save(3, state, {})
    with Checkpoints(tmp_path, 3) as saved:
        state, _ = saved.restore(one.abstract(start, model.axes))
    assert same(one.get(jax.tree.map(plain, state)), wanted)
    state, metrics = step(state, (), one.put(BATCH))
    assert int(state.step) == 3 and np.isfinite(metrics["loss"][0])


def plain(x):
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.parametrize(
    ("mesh", "kind"), [("", "pmap"), ("data:2,fsdp:2,tensor:2", "mesh"), ("data:8", "mesh")]
)
def test_rows_come_back_in_order(mesh, kind):
    plan = plan_of(mesh, kind)
    batch = {
        "row": np.arange(16, dtype=np.int32),
        "x": np.random.default_rng(0).normal(size=(16, 3)).astype("f"),
    }
    run = plan.rows(lambda tree, frozen, b: {"row": b["row"] * tree, "sum": b["x"].sum(-1) + frozen})
    found = plan.get(run(jnp.int32(2), jnp.float32(1), plan.put(batch)))
    assert np.array_equal(found["row"], 2 * np.arange(16))
    np.testing.assert_allclose(found["sum"], batch["x"].sum(-1) + 1, rtol=1e-6)
    whole = plan.get(plan.put(batch))["row"].ravel()
    assert np.array_equal(whole, batch["row"])


@pytest.mark.parametrize(
    ("mesh", "room", "rows", "tensor"),
    [
        ("fsdp:8", 1, 8, 1),
        ("fsdp:4,tensor:2", 1, 4, 2),
        ("data:2,fsdp:2,context:2", 1, 8, 1),
        ("fsdp:8", 0.4, 2, 4),
    ],
)
def test_a_plan_to_decode_has_the_parameters_whole_on_each_group_of_devices(
    monkeypatch, mesh, room, rows, tensor
):
    plan, model, _, _ = built(mesh)
    params = plan.init(lambda: model.init(jax.random.key(0)), model.axes)
    size = sum(x.nbytes for x in jax.tree.leaves(params))
    monkeypatch.setattr(parallel.device_memory, "capacity", lambda _: int(size * 3 * 1.01 * room))
    decoding = plan.decoding(lambda: model.ready(model.init(jax.random.key(0))))
    assert (decoding.shards, decoding.devices) == (rows, plan.devices)
    laid = decoding.ready(lambda params, _: model.ready(params))(params, ())
    held = sum(x.addressable_shards[3].data.nbytes for x in jax.tree.leaves(laid))
    assert held == pytest.approx(size / tensor, rel=0.05)
    for a, b in zip(jax.tree.leaves(model.ready(params)), jax.tree.leaves(laid), strict=True):
        assert np.array_equal(a, b)


def test_a_tensor_axis_that_is_too_small_decodes_as_it_trains(monkeypatch):
    plan, model, _, _ = built("fsdp:4,tensor:2")
    monkeypatch.setattr(parallel.device_memory, "capacity", lambda _: 1000)
    assert plan.decoding(lambda: model.init(jax.random.key(0))) is plan
