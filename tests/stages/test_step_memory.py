"""What a training step needs of memory at least, by hand and against a compiled step."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from experiments.pretrain import Pretrain
from jaxtrain import config, flags
from jaxtrain.apps.benchmark import workloads
from jaxtrain.models import zoo
from jaxtrain.stages import step_memory
from jaxtrain.train import host, parallel

GIB = 2**30
ARCH = zoo.resolve("tinytown-1m,vocab=1024")


def command(*given):
    return flags.from_flags(Pretrain, [f"--{flag}" for flag in given])


def session(platform="cpu", kind="cpu", count=1):
    devices = [SimpleNamespace(platform=platform, device_kind=kind) for _ in range(count)]
    return SimpleNamespace(
        arch=ARCH, plan=SimpleNamespace(platform=platform, devices=devices, process=(0, 1))
    )


def test_elements_by_hand():
    arch = ARCH
    products = arch.C * (2 * arch.heads + 2 * arch.K) + (3 if arch.gated else 2) * arch.ff
    assert step_memory.stored_activations(arch, "full") == arch.width
    assert step_memory.stored_activations(arch, "dots") == arch.width + products
    assert step_memory.stored_activations(arch, "none", 2) == arch.width + products / 2


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
def test_a_compiled_step_needs_as_much_at_least(remat):
    cfg = command(f"remat={remat}")
    plan = parallel.make(config.Run())
    step = workloads.training_step(plan, ARCH, cfg.model, cfg.optim, "pretrain", 8, 128, seed=0)
    ((name, text),) = step_memory.rows(cfg, session(), 8 * 128, ())
    estimate = float(text.split()[0]) * 2**20
    assert name == "activations" and 0.02 * step.scratch_memory() < estimate < step.scratch_memory()


def test_what_does_not_fit_is_said_with_the_remedy(monkeypatch):
    state = {
        "w": jax.ShapeDtypeStruct(
            (2**28,), jnp.float32, sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0])
        )
    }
    monkeypatch.setattr(host, "memory", lambda: 8 * GIB)
    long = command("seq_len=100000", "batch_size=32")
    tokens = 100_000 * 32
    rows = dict(step_memory.rows(long, session(), tokens, state))
    assert rows["warning"].startswith("a step needs at least ") and "which has 8.0" in rows["warning"]
    assert rows["warning"].endswith(
        "lower --seq_len=100000 or --batch_size=32, raise --microbatches, or set --remat=full"
    )
    # Two devices of a CPU share its memory; a GPU has its own.
    assert "which has 4.0" in dict(step_memory.rows(long, session(count=2), tokens, state))["warning"]
    assert (
        "which has 24.0"
        in dict(step_memory.rows(long, session("gpu", "NVIDIA L4"), 64 * tokens, state))["warning"]
    )
    for fits in (
        step_memory.rows(long, session("gpu", "NVIDIA H200"), tokens, state),
        step_memory.rows(command(), session(), 1024, state),
        step_memory.rows(
            command("microbatches=32", "batch_size=32", "seq_len=100000", "remat=full"),
            session(),
            tokens,
            state,
        ),
    ):
        assert [name for name, _ in fits] == ["activations"]
    # Where nothing is recomputed, more is needed than is counted, 4.3 GiB here.
    assert (
        "which has 8.0" in dict(step_memory.rows(command("seq_len=20000"), session(), 160_000, ()))["warning"]
    )
    assert len(step_memory.rows(command("seq_len=20000", "remat=dots"), session(), 160_000, ())) == 1
    monkeypatch.setattr(host, "memory", lambda: 16 * GIB)
    assert len(step_memory.rows(command("seq_len=20000"), session(), 160_000, ())) == 1
    monkeypatch.setattr(host, "memory", lambda: None)
    assert [name for name, _ in step_memory.rows(long, session(), tokens, state)] == ["activations"]


def test_a_gpu_has_a_note_on_bfloat16():
    gpu = session("gpu", "NVIDIA L4").plan
    assert step_memory.dtype(command(), session().plan) == "computes in float32"
    assert "bfloat16, parameters and sums in float32; --dtype=float32" in step_memory.dtype(command(), gpu)
    assert step_memory.dtype(command("dtype=bfloat16"), gpu) == "computes in bfloat16"


def test_the_memory_of_a_container_is_its_limit(tmp_path, monkeypatch):
    limits = [tmp_path / "none", tmp_path / "max", tmp_path / "limit"]
    limits[1].write_text("max\n")
    limits[2].write_text("12345678\n")
    monkeypatch.setattr(host, "_CONTAINER_LIMITS", [str(path) for path in limits])
    assert host.memory() == 12345678
    limits[2].unlink()
    assert host.memory() > 2**28
