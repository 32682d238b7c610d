import builtins
import dataclasses

import pytest

from jaxtrain.apps.benchmark import torch_speed
from jaxtrain.apps.benchmark.process import LeftOut
from jaxtrain.apps.benchmark.sizes import FULL, TINY


def test_without_torch_or_without_its_gpu_the_part_is_left_out(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(LeftOut, match="sees no GPU"):
        torch_speed.pretrain(FULL, 10, print)
    plain = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "torch":
            raise ImportError("No module named 'torch'")
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    for part in (torch_speed.pretrain, torch_speed.decode):
        with pytest.raises(LeftOut, match="pip install torch"):
            part(TINY, 10, print)


def test_training_in_torch_is_measured_and_out_of_memory_halves_the_rows(monkeypatch):
    pytest.importorskip("torch")
    sizes, reported = dataclasses.replace(TINY, torch_pretrain=(("125M", "", ""),)), {}
    assert torch_speed.pretrain(sizes, 60, reported.__setitem__) == []
    record = reported["125M eager"]
    assert record["rows"] == 2 and record["tokens"] == 64 and abs(record["first_loss"] - 4.16) < 0.1  # log 64
    asked = []

    def full(sizes, size, *args):
        asked.append(size.rows)
        if size.rows == 2:
            raise RuntimeError("CUDA out of memory")
        return {"tokens_per_s": 1.0}

    monkeypatch.setattr(torch_speed, "_steps", full)
    torch_speed.pretrain(sizes, 60, reported.__setitem__)
    assert asked == [2, 1] and reported["125M eager"]["rows"] == 1


def test_decode_in_torch_is_measured():
    pytest.importorskip("torch")
    reported = {}
    assert torch_speed.decode(TINY, 60, reported.__setitem__) == []
    assert set(reported) == {"batch 1", "batch 2"}
    assert all(record["step_seconds"]["repeats"] == 2 for record in reported.values())
