"""Accelerators by device nodes and packages."""

from jaxtrain.files import accelerators


def test_an_accelerator_runs_one_training_at_a_time(tmp_path, monkeypatch):
    installed = {"libtpu"}
    monkeypatch.setattr(accelerators, "find_spec", lambda name: name if name in installed else None)
    (tmp_path / "nvidia0").touch()
    assert accelerators.jobs(tmp_path) == 2  # libtpu drives no GPU, and compiles for TPUs that are not here
    assert accelerators.nvidia_gpus(tmp_path) == 1 and not accelerators.present(tmp_path)
    (tmp_path / "vfio").mkdir()
    (tmp_path / "vfio" / "0").touch()
    assert accelerators.jobs(tmp_path) == 1 and accelerators.present(tmp_path)
    installed = {"jax_cuda12_plugin"}
    assert accelerators.jobs(tmp_path) == 1 and accelerators.jobs(tmp_path / "vfio") == 2
