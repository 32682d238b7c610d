"""What is compared: a difference in any array, metric, result or batch is found, and times are none."""

import json

import numpy as np
import pytest

from jaxtrain.apps.soak import observe
from jaxtrain.files import checksums
from jaxtrain.train import loop


def write(folder, loss=0.1 + 0.2, time=1.0, text="a"):
    (folder / "run" / "samples").mkdir(parents=True)
    (folder / "run" / "metrics.jsonl").write_text(json.dumps({"step": 1, "time": time, "loss": loss}) + "\n")
    report = checksums.sealed({"rows": [1, {"seconds": time}]})
    (folder / "run" / "report.json").write_text(json.dumps(report))
    (folder / "run" / "samples" / "1.txt").write_text(text)
    config = {"stage": "sft", "config": {"lr": 0.1}, "command": str(time), "resumed": [time]}
    (folder / "run" / "config.json").write_text(json.dumps(config))
    observe.write(folder / "run", folder / "observed")
    return observe.read(folder / "observed")


def test_times_are_no_difference_and_all_else_is(tmp_path):
    one = write(tmp_path / "a")
    assert observe.difference(one, write(tmp_path / "b", time=2.0)) == ""
    assert "metrics.jsonl:1 differs" in observe.difference(one, write(tmp_path / "c", loss=0.3))
    assert observe.difference(one, write(tmp_path / "d", loss=0.3), 1e-5) == ""
    assert "samples/1.txt differs" in observe.difference(one, write(tmp_path / "e", text="b"))
    assert one["config.json"] == {"stage": "sft", "config": {"lr": 0.1}}, "it is of the run, not of a start"
    less = {name: value for name, value in one.items() if name != "report.json"}
    assert "report.json is missing" in observe.difference(one, less)
    assert "report.json is there" in observe.difference(less, one)


@pytest.mark.parametrize("tolerance", [0.0, 1e-5])
def test_arrays_are_compared_to_the_bit_or_within_a_tolerance(tolerance):
    one = {"w": np.array([1.0, -0.0, 2e6], np.float32)}
    assert observe.difference(one, {"w": one["w"].copy()}, tolerance) == ""
    near = {"w": np.array([1.0, 0.0, 2e6 + 1], np.float32)}
    assert bool(observe.difference(one, near, tolerance)) == (not tolerance)
    for other in ([1.001, 0, 2e6], [np.nan, 0, 2e6], [1, 0], [1.0, 0, 3e6]):
        assert observe.difference(one, {"w": np.array(other, np.float32)}, tolerance)
    assert observe.difference(one, {"w": one["w"].astype(np.float64)}, tolerance)
    whole = {"n": np.array([3])}
    assert observe.difference(whole, {"n": np.array([4])}, 1.0), "whole numbers have no tolerance"


def test_arrays_of_a_checkpoint_are_those_that_were_saved(tmp_path):
    import jax.numpy as jnp

    from jaxtrain.train.checkpoint import Checkpoints

    state = {"params": {"w": jnp.arange(6.0).reshape(2, 3)}, "step": jnp.int32(4)}
    with Checkpoints(tmp_path, 2) as saved:
        saved.save(3, {**state, "step": jnp.int32(3)}, {})
        saved.save(4, state, {})
    found = dict(observe.values(tmp_path))
    assert found["checkpoints/newest"] == 4
    (w,) = [value for name, value in found.items() if "params" in name]
    assert w.tolist() == [[0, 1, 2], [3, 4, 5]] and w.dtype == np.float32
    (step,) = [value for name, value in found.items() if name.endswith("step")]
    assert step == 4


def test_batches_are_recorded_by_step(tmp_path, monkeypatch):
    class Plan:
        get = staticmethod(lambda value: value)

    class State:
        step = 5

    def fit(state, frozen, plan, step, next_batch, **options):
        return [next_batch(state), next_batch(state)]

    monkeypatch.setattr(loop, "fit", fit)
    observe.record_batches(tmp_path / "order.jsonl")()
    batches = iter([{"tokens": np.array([1, 2]), "logps": np.array([0.5])}, {"tokens": np.array([1, 3])}])
    assert len(loop.fit(State(), None, Plan(), None, lambda state: next(batches))) == 2
    assert {step: len(digests) for step, digests in observe.order(tmp_path / "order.jsonl").items()} == {5: 2}
    assert observe.order(tmp_path / "none") == {}
