"""How much memory devices have, and how far a model is split to decode."""

from types import SimpleNamespace

import pytest

from jaxtrain.train import device_memory
from jaxtrain.train.metrics import PEAKS

GIB = device_memory.GIB


def devices(kind, count=8, limit=None, process=0):
    stats = {"bytes_limit": limit} if limit else None
    one = SimpleNamespace(device_kind=kind, process_index=process, memory_stats=lambda: stats)
    return [one] * count


def test_a_known_kind_has_its_size_and_another_what_its_runtime_says():
    assert device_memory.capacity(devices("TPU v5 lite")) == 16 * GIB
    assert device_memory.capacity(devices("TPU v5")) == 95 * GIB
    assert device_memory.capacity(devices("NVIDIA H100 80GB HBM3", limit=60 * GIB)) == 80 * GIB
    assert device_memory.capacity(devices("NVIDIA A100-SXM4-40GB", limit=30 * GIB)) == 30 * GIB
    assert device_memory.capacity(devices("cpu")) is None
    assert device_memory.capacity(devices("NVIDIA B300", limit=30 * GIB, process=1)) is None


def test_every_kind_has_a_known_peak():
    assert device_memory.GIB_OF_KIND.keys() <= PEAKS.keys()


@pytest.mark.parametrize(
    ("gib", "tensor", "parts"),
    [(2.3, 1, 1), (5.3, 1, 1), (5.4, 1, 2), (16, 1, 4), (40, 1, 8), (100, 1, 8), (2.3, 2, 2), (16, 2, 0)],
)
def test_parameters_are_split_over_as_few_devices_as_have_room(gib, tensor, parts, caplog):
    with caplog.at_level("WARNING", logger="absl"):
        assert device_memory.split_to_decode(int(gib * GIB), devices("TPU v5 lite"), tensor) == parts
    expected = (
        [] if parts == tensor else [f"split over {parts} devices" if parts else "every token gathers them"]
    )
    assert len(caplog.messages) == len(expected)
    assert all(text in message for text, message in zip(expected, caplog.messages, strict=True))


def test_without_a_known_memory_nothing_more_is_split():
    assert device_memory.split_to_decode(10**12, devices("cpu"), 2) == 2
