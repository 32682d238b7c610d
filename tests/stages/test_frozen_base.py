"""The base under adapters: its types, its bytes, and the same steps under every plan."""

import functools
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxtrain import config
from jaxtrain.config import ConfigError, Lora
from jaxtrain.models import lora, quantized_weights
from jaxtrain.objectives.next_token import next_token
from jaxtrain.stages import frozen_base, state_memory
from jaxtrain.stages.init_from import CheckpointRef, InitFrom
from jaxtrain.train import optim, parallel
from jaxtrain.train.step import init_state, train_step
from tests import tiny

ARCH = tiny.shrink("llama3.1-8b", layers=2, width=128, ff=256, heads=4, kv_heads=2)
MIXTURE = tiny.shrink("olmoe-1b-7b", layers=2, width=128, expert_ff=64, experts=4)
START = InitFrom(ARCH, None, {})
LR, ROWS = 0.1, 16
PLANS = {
    "jit": ("mesh", "data:1", 1),
    "pmap, 2 microbatches": ("pmap", "", 2),
    "fsdp x tensor": ("mesh", "fsdp:4,tensor:2", 1),
}


def based(arch, plan, kind):
    """(model, settings, the base as the plan lays it)."""
    model = tiny.model(arch, local=plan.local)
    settings = Lora(lora_rank=2, lora_alpha=2.0, base_weights=kind, dora=True)
    params = plan.init(lambda: model.init(jax.random.key(0)), model.axes)
    return model, settings, frozen_base.in_base_type(plan, params, model.axes, settings)


def trained(arch, kind, runtime, mesh, microbatches):
    """(first raw gradient, adapters after 3 steps) under a plan, with SGD; the base's codes, too."""
    devices = jax.devices()[: 1 if mesh == "data:1" else 8]
    plan = parallel.make(config.Run(parallel=runtime, mesh=mesh), devices)
    model, settings, base = based(arch, plan, kind)
    axes = lora.adapter_axes(model.axes, settings)
    how = config.Optim(optimizer="sgd", lr=LR, warmup=0, schedule="constant", weight_decay=0, b1=0, clip=0)
    tx = optim.optimizer(how, 3, axes)

    def objective(params, frozen, batch, rng):
        return next_token(lora.merge(frozen, params, model.axes, settings), (), batch, rng, model=model)

    def start(base):
        made = lora.init(base, jax.random.key(1), model.axes, settings)
        return init_state(jax.tree.map(lambda x: x + 0.02, made), tx, jax.random.key(2))

    step = plan.step(functools.partial(train_step, objective=objective, tx=tx, microbatches=microbatches))
    state, history = plan.init(start, axes, base), []
    for _ in range(3):
        history.append(plan.get(state.params))
        state, _ = step(state, base, plan.put(tiny.batch(ROWS, 16, arch.vocab)))
    gradient = jax.tree.map(lambda a, b: (a - b) / LR, history[0], history[1])
    return gradient, plan.get(state.params), plan.get(base)


wanted = functools.cache(lambda kind, arch: trained(arch, kind, *PLANS["jit"]))


@pytest.mark.parametrize(
    ("kind", "plan", "arch"),
    [
        ("int8", "pmap, 2 microbatches", ARCH),
        ("int8", "fsdp x tensor", ARCH),
        ("nf4", "fsdp x tensor", ARCH),
        ("nf4", "fsdp x tensor", MIXTURE),
    ],
)
def test_every_plan_takes_the_same_steps_on_the_same_codes(kind, plan, arch):
    one, other = wanted(kind, arch), trained(arch, kind, *PLANS[plan])
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(one[0])) > 1e-3
    for a, b in zip(jax.tree.leaves(one[:2]), jax.tree.leaves(other[:2]), strict=True):
        np.testing.assert_allclose(b, a, atol=1e-5)
    assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (one[2], other[2])), strict=True))


def test_a_plan_splits_codes_and_scales_and_their_shapes_have_the_bytes_of_the_arrays():
    plan = parallel.make(config.Run(parallel="mesh", mesh="fsdp:2,tensor:2"), jax.devices()[:4])
    for kind in ("int8", "nf4"):
        model, settings, base = based(ARCH, plan, kind)
        down = base["layers"]["mlp"]["down"]["kernel"]
        codes = down[kind]  # (layers, ff over tensor, embed over fsdp); of nf4 two codes a byte
        assert codes.addressable_shards[0].data.size == codes.size / 4
        abstract = plan.abstract(lambda model=model: model.init(jax.random.key(0)), model.axes)
        shapes = frozen_base.in_base_type(plan, abstract, model.axes, settings)
        for one, other in zip(jax.tree.leaves(shapes), jax.tree.leaves(base), strict=True):
            assert (one.shape, one.dtype, one.sharding) == (other.shape, other.dtype, other.sharding)
        kernels = sum(leaf.nbytes for path, leaf in jax.tree.leaves_with_path(base) if "kernel" in str(path))
        count = quantized_weights.count(base) - 2 * ARCH.vocab * 128 - 5 * 128
        assert kernels == count * 4.5 / 8 if kind == "nf4" else 1 < kernels / count < 1.05
        said = frozen_base.described(base, settings)
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(base))
        assert (
            said
            == f"{quantized_weights.count(base):,}, kernels in {kind}, {size / 2**20:,.1f} MiB, the adapters' base"
        )


def test_a_kernel_without_blocks_is_refused_before_anything_is_read():
    plan = parallel.make(config.Run(), jax.devices()[:1])
    model = tiny.model(tiny.shrink("gpt2", layers=1))
    with pytest.raises(ConfigError, match=r"--base_weights=nf4: layers/.*; use --base_weights=int8"):
        frozen_base.require(plan, model, Lora(lora_rank=1, base_weights="nf4"), False)
    frozen_base.require(plan, model, Lora(lora_rank=1, base_weights="int8"), False)


def test_a_model_of_a_folder_needs_room_for_its_codes_and_one_kernel_and_that_of_a_run_for_all_of_it(
    monkeypatch,
):
    plan = parallel.make(config.Run(), jax.devices()[:1])
    model, settings = tiny.model(ARCH), Lora(lora_rank=1, base_weights="nf4")
    whole = jax.eval_shape(model.init, jax.random.key(0))
    size = 4 * sum(leaf.size for leaf in jax.tree.leaves(whole))
    monkeypatch.setattr(state_memory, "of_a_device", lambda plan: 0.6 * size)
    frozen_base.require(plan, model, settings, by_leaf=True)
    folder, run = (START._replace(origins=(CheckpointRef(Path("x"), hf=hf),)) for hf in (True, False))
    for start, kind, heads in (
        (run, "nf4", None),
        (folder, "float32", None),
        (folder, "nf4", "a value head"),
    ):
        cfg = SimpleNamespace(
            model=config.Model(), lora=Lora(lora_rank=1, base_weights=kind), run=config.Run()
        )
        with pytest.raises(ConfigError, match="the model under the adapters takes"):
            frozen_base.load(cfg, plan, start, model, heads, None)
