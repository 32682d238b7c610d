import subprocess

from jaxtrain.apps.benchmark import machine


def test_readings_count_while_the_gpu_is_busy():
    text = "0, 345, 2619, 70.1, 31\n100, 1980, 2619, 690.5, 60\n98, 1900, 2619, 700.5, 62\n"
    text += "51, 1700, 2619, 600, 61\n99, 19"
    assert machine.busy_medians(text) == {
        "readings": 3,
        "clocks.sm": 1900,
        "clocks.mem": 2619,
        "power.draw": 690.5,
        "temperature.gpu": 61,
    }
    assert (
        machine.busy_medians("0, 345, 2619, 70.1, 31\n[N/A], 1, 1, 1, 1\n") == {} == machine.busy_medians("")
    )


def fake_smi(tmp_path, monkeypatch, lines):
    command = tmp_path / "nvidia-smi"
    command.write_text(f"#!/bin/sh\nprintf '{lines}'\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")


def test_the_gpu_is_described_as_nvidia_smi_has_it(tmp_path, monkeypatch):
    fake_smi(tmp_path, monkeypatch, "NVIDIA H100 80GB HBM3, 580.1, 81559 MiB, 700 W, 1980 MHz, 2619 MHz\\n")
    (gpu,) = machine.describe()["gpus"]
    assert gpu["name"] == "NVIDIA H100 80GB HBM3" and gpu["driver_version"] == "580.1"
    assert set(machine.describe()["versions"]) >= {"python", "jax", "flax", "optax"}


def test_clocks_are_read_during_a_part(tmp_path, monkeypatch):
    fake_smi(tmp_path, monkeypatch, "90, 1980, 2619, 650, 60\\n")
    with machine.load_readings() as load:
        subprocess.run(["true"], check=True)
    medians = {"clocks.sm": 1980, "clocks.mem": 2619, "power.draw": 650, "temperature.gpu": 60}
    assert load in ({}, {"readings": 1, **medians})  # the stand-in may have been ended before it wrote


def test_without_nvidia_smi_there_is_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.describe()["gpus"] == []
    with machine.load_readings() as load:
        pass
    assert load == {}
