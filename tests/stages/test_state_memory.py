"""A model whose training state has no room on the devices is refused before anything is loaded, with the estimate."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from jaxtrain.config import ConfigError
from jaxtrain.stages import state_memory
from jaxtrain.train import host
from tests import hf_folders
from tests.runs import call

GIB = 2**30


def plan(platform="cpu", kind="cpu", count=1, processes=1):
    devices = [SimpleNamespace(platform=platform, device_kind=kind) for _ in range(count)]
    return SimpleNamespace(platform=platform, devices=devices, process=(0, processes))


def shapes(gib):
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return {"w": jax.ShapeDtypeStruct((gib << 28,), jnp.float32, sharding=sharding)}


def test_the_devices_of_a_cpu_share_the_machines_memory(monkeypatch):
    monkeypatch.setattr(host, "memory", lambda: 8 * GIB)
    assert state_memory.of_a_device(plan()) == 8 * GIB
    assert state_memory.of_a_device(plan(count=8)) == GIB
    assert state_memory.of_a_device(plan(count=8, processes=2)) == 2 * GIB, "each process has a machine"
    assert state_memory.of_a_device(plan("gpu", "NVIDIA H100 80GB HBM3", 4)) == 80 * GIB
    monkeypatch.setattr(host, "memory", lambda: None)
    assert state_memory.of_a_device(plan()) is None
    state_memory.require_room(plan(), shapes(1000), "it")


def test_what_has_no_room_is_refused_with_estimate_and_remedy():
    h100 = plan("gpu", "NVIDIA H100 80GB HBM3", 2)
    state_memory.require_room(h100, shapes(80), "it")
    with pytest.raises(ConfigError) as refused:
        state_memory.require_room(h100, shapes(120), "the training state of this model")
    said = str(refused.value)
    assert said.startswith(
        "the training state of this model takes 120.0 GiB, 120.0 GiB on each of 2 devices (NVIDIA H100"
    )
    assert "which has 80.0" in said and "3 such devices have room with --mesh=fsdp:-1" in said  # 120 / 56
    assert "--lora_rank=16" in said and "./launch/run plan" in said


def refused(folder, *flags, stage="pretrain"):
    """The message of a command on 8 devices that is refused; it leaves no workdir, so that it can be corrected."""
    data = folder / "data.jsonl"
    data.write_text('{"text": "A text."}\n' * 40)
    workdir = folder / "run"
    given = ("--mesh=fsdp:8", "--batch_size=8", "--seq_len=16", "--steps=20", f"--cache_dir={folder}")
    with pytest.raises(ConfigError) as error:
        call(stage, f"--data=jsonl:{data}", f"--workdir={workdir}", *given, *flags)
    assert not workdir.exists()
    return str(error.value)


def test_a_model_of_8b_parameters_is_refused_before_it_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(host, "memory", lambda: 23 * GIB)
    said = refused(tmp_path, "--model=llama3.1-8b", "--tokenizer=byte")
    assert said.startswith(
        "the training state of this model takes 89.7 GiB, 11.2 GiB on each of 8 devices (cpu), which"
    )
    assert "which has 2.9; a step needs more. 45 such devices" in said  # 8,030 M parameters, 12 bytes each


def test_the_model_under_adapters_is_refused_before_it_is_loaded(tmp_path, monkeypatch):
    folder = hf_folders.write(tmp_path / "model")
    monkeypatch.setattr(host, "memory", lambda: 8000)
    said = refused(tmp_path, f"--init_from=hf:{folder}", "--lora_rank=2", stage="sft")
    assert said.startswith("the model under the adapters takes ")
