"""Values between the process of a program and that of its tests: plain data, and handles of everything else.

A value that arrives is built of plain types alone, so a class with an `__eq__` of its own, or a subclass of int, is
data or a handle when it is compared. A message is a length and JSON.
"""

import builtins
import json
import os
import struct
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

LARGEST = 16 << 20  # bytes of a message
_SMALL = 1 << 53  # integers that every reader of JSON has exactly
TYPES = frozenset(
    """bool bytearray bytes complex dict float frozenset int list object set str tuple type""".split()
)
_LENGTH = struct.Struct("!I")


class Unsupported(TypeError):
    """A value that has no form on the wire."""


def encode(value: Any, handle: Callable[[Any], Any]) -> Any:
    """The JSON of a value; `handle` gives that of what is no data. A subclass of a plain type is that type."""
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        number = int.__index__(value)
        return number if -_SMALL < number < _SMALL else {"i": hex(number)}
    if isinstance(value, float):
        return {"f": float.hex(value)}
    if isinstance(value, list):
        return [encode(each, handle) for each in list.__iter__(value)]
    if isinstance(value, dict):
        return {"d": [[encode(key, handle), encode(each, handle)] for key, each in dict.items(value)]}
    for kind, name in ((tuple, "t"), (set, "s"), (frozenset, "z")):
        if isinstance(value, kind):
            return {name: [encode(each, handle) for each in kind.__iter__(value)]}
    if isinstance(value, bytes | bytearray):
        return {"y" if isinstance(value, bytes) else "a": bytes(value).hex()}
    if type(value) is complex:
        return {"c": [value.real.hex(), value.imag.hex()]}
    if type(value) is range:
        return {"r": [hex(value.start), hex(value.stop), hex(value.step)]}
    if type(value) is Decimal:
        return {"n": str(value)}
    if type(value) is Fraction:
        return {"q": [hex(value.numerator), hex(value.denominator)]}
    if isinstance(value, type) and value.__name__ in TYPES and getattr(builtins, value.__name__) is value:
        return {"b": value.__name__}
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        return encode(value.item(), handle)
    return handle(value)


def decode(data: Any, handle: Callable[[Mapping[str, Any]], Any]) -> Any:
    """The value of JSON, of plain types alone; `handle` reads handles. Raises ValueError for what is no value."""
    if isinstance(data, list):
        return [decode(each, handle) for each in data]
    if not isinstance(data, dict):
        return float(data) if isinstance(data, float) else data
    if "h" in data:
        return handle(data)
    if len(data) != 1:
        raise ValueError("no value")
    ((kind, value),) = data.items()
    try:
        return _DECODED[kind](value, handle)
    except (KeyError, TypeError, OverflowError, InvalidOperation, ZeroDivisionError) as error:
        raise ValueError("no value") from error


def _integer(text: str) -> int:
    return int(text, 16)


def _items(value: list, handle: Callable) -> list:
    return [decode(each, handle) for each in value]


_DECODED: Mapping[str, Callable[[Any, Callable], Any]] = {
    "i": lambda value, handle: _integer(value),
    "f": lambda value, handle: float.fromhex(value),
    "t": lambda value, handle: tuple(_items(value, handle)),
    "s": lambda value, handle: set(_items(value, handle)),
    "z": lambda value, handle: frozenset(_items(value, handle)),
    "d": lambda value, handle: {decode(k, handle): decode(v, handle) for k, v in value},
    "y": lambda value, handle: bytes.fromhex(value),
    "a": lambda value, handle: bytearray.fromhex(value),
    "c": lambda value, handle: complex(*map(float.fromhex, value)),
    "r": lambda value, handle: range(*map(_integer, value)),
    "n": lambda value, handle: Decimal(value),
    "q": lambda value, handle: Fraction(*map(_integer, value)),
    "b": lambda value, handle: {name: getattr(builtins, name) for name in TYPES}[value],
}


def packed(message: Any) -> bytes:
    """A message as it is written. Raises ValueError for one above LARGEST."""
    data = json.dumps(message).encode()
    if len(data) > LARGEST:
        raise ValueError(f"a value of {len(data):,} bytes; {LARGEST:,} are the most")
    return _LENGTH.pack(len(data)) + data


def send(stream: int, message: Any) -> None:
    """Writes a message. Raises ValueError for one above LARGEST."""
    data = packed(message)
    while data:
        data = data[os.write(stream, data) :]


def receive(stream: int) -> Any:
    """The next message. Raises EOFError at the end, ValueError for what is none."""
    (size,) = _LENGTH.unpack(_exactly(stream, _LENGTH.size))
    if size > LARGEST:
        raise ValueError(f"a message of {size:,} bytes; {LARGEST:,} are the most")
    try:
        return json.loads(_exactly(stream, size))
    except RecursionError as error:
        raise ValueError("a value that is nested too deep") from error


def _exactly(stream: int, size: int) -> bytes:
    parts, left = [], size
    while left:
        part = os.read(stream, min(left, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
