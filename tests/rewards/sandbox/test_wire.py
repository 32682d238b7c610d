"""Values on the wire: what arrives is of plain types, whatever it was, and what is no value is refused."""

import json
import math
import os
from collections import Counter, OrderedDict, namedtuple
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction

import numpy as np
import pytest

from jaxtrain.rewards.sandbox import wire


def no_handle(value):
    raise wire.Unsupported(type(value).__name__)


def arrived(value):
    return wire.decode(json.loads(json.dumps(wire.encode(value, no_handle))), no_handle)


VALUES = [
    None, True, False, 0, -5, 2**53, -(2**64), 10**4000, 1.5, 0.1, -0.0, math.inf, "", "é\udc80", b"\x00\xff", 1 + 2j,
    [], [1, [2]], (1, (2,)), {1, 2}, frozenset({1}), {"a": 1, (1, 2): [None]}, range(1, 9, 2), Decimal("1.10"),
    Fraction(1, 3), int, list, bytearray(b"x"),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20])
def test_plain_data_arrives_as_it_was(value):
    result = arrived(value)
    assert result == value and type(result) is type(value) and repr(result)[:100] == repr(value)[:100]
    assert math.isnan(arrived(math.nan))


class Liar(int):
    def __eq__(self, other):
        return True

    def __index__(self):
        return 99

    __hash__ = int.__hash__


class Text(str):
    def __str__(self):
        return "another"


class Size(IntEnum):
    BIG = 3


@pytest.mark.parametrize(
    "value, wanted",
    [
        (Liar(7), 7), (Text("a"), "a"), (Size.BIG, 3), (Counter("aab"), {"a": 2, "b": 1}),
        (OrderedDict(a=1), {"a": 1}), (namedtuple("P", "x y")(1, 2), (1, 2)), (np.int64(3), 3), (np.float32(0.5), 0.5),
        (np.bool_(True), True),
    ],
)  # fmt: skip
def test_a_subclass_arrives_as_the_plain_type(value, wanted):
    result = arrived(value)
    assert type(result) is type(wanted) and repr(result) == repr(wanted)


@pytest.mark.parametrize(
    "value", [object(), len, Liar, lambda: 1, iter([]), np.zeros(2), type("int", (), {})]
)
def test_other_objects_have_handles(value):
    with pytest.raises(wire.Unsupported):
        arrived([value])
    assert wire.encode([value], lambda each: {"h": 5}) == [{"h": 5}]
    assert wire.decode([{"h": 5}], lambda data: data["h"]) == [5]


@pytest.mark.parametrize(
    "data",
    [{}, {"?": 1}, {"i": 5}, {"i": "zz"}, {"f": 1}, {"d": [[[], 1]]}, {"d": 3}, {"b": "eval"}, {"n": "x"},
     {"q": ["0x1", "0x0"]}, {"t": 5}, {"s": [[]]}, {"t": [1], "s": []}, {"r": ["0x1", "0x2", "0x0"]}],
)  # fmt: skip
def test_what_is_no_value_is_refused(data):
    with pytest.raises(ValueError):
        wire.decode(data, no_handle)


def test_messages_are_whole_bounded_and_json():
    reading, writing = os.pipe()
    wire.send(writing, {"a": ["x"]})
    assert wire.receive(reading) == {"a": ["x"]}
    os.write(writing, b"\xff\xff\xff\xff")
    with pytest.raises(ValueError, match="16,777,216 are the most"):
        wire.receive(reading)
    os.write(writing, b"\x00\x00\x00\x02{x")
    with pytest.raises(ValueError):
        wire.receive(reading)
    deep = b"[" * 60_000
    os.write(writing, len(deep).to_bytes(4, "big") + deep)
    with pytest.raises(ValueError):
        wire.receive(reading)
    os.write(writing, b"\x00\x00\x00\x09{}")
    os.close(writing)
    with pytest.raises(EOFError):
        wire.receive(reading)
    os.close(reading)
    with pytest.raises(ValueError, match="bytes"):
        wire.packed("x" * (wire.LARGEST + 1))
