"""Trip counts of the while loops of an HLO program: as the compiler states them, or from the condition and the step.

jax's scans become loops over a counter: `counter < limit` in the condition, `counter + step` in the body. A loop that
may end sooner (`counter < limit & ~done`, decode) has an upper bound alone.
"""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from jaxtrain.apps.plan.hlo_text import Computation, HloProgram, Instruction

_SAME = ("copy", "bitcast", "convert", "reshape", "copy-start", "copy-done", "optimization-barrier")
DEEP = 12  # instructions that a value is followed through


class TripCount(NamedTuple):
    """Times that a loop's body runs."""

    count: int
    exact: bool  # False: at most this often, or unknown and counted once


class _Value(NamedTuple):
    """A scalar as far as it is known: `constant` more than a value that the loop carries, or a bare constant."""

    carried: int | None  # index in the loop's tuple
    constant: int
    exact: bool = True  # False: at most this


class _Compare(NamedTuple):
    left: _Value | None
    right: _Value | None
    direction: str
    alone: bool  # the condition is this comparison and nothing else

    def limits_exactly(self) -> bool:
        """Whether both sides are known, and not bounds."""
        return all(side is not None and side.exact for side in (self.left, self.right))


def trip_count(program: HloProgram, computation: Computation, loop: Instruction) -> TripCount:
    """How often a `while` instruction of a computation runs its body."""
    known = loop.attribute(r'known_trip_count":\{"n":"(\d+)"')
    if known:
        return TripCount(int(known), True)
    condition, body = (program.computations[loop.called(key)] for key in ("condition", "body"))
    bounds = []
    for compare in _comparisons(program, condition, condition.root, {}, True, 0):
        count = _counted(program, computation, loop, body, compare)
        if count is not None:
            bounds.append(TripCount(count, compare.alone and compare.limits_exactly()))
    if bounds:
        return min(bounds)
    constants = [_literal(i) for i in condition.instructions.values() if i.opcode == "constant"]
    return TripCount(max([1, *(n for n in constants if n is not None)]), False)


def _counted(
    program: HloProgram, computation: Computation, loop: Instruction, body: Computation, compare: _Compare
) -> int | None:
    """Trips of a loop that goes on while the comparison holds, None where it does not bound them."""

    def start(index: int) -> int | None:
        tuple_ = computation.operand(loop, 0)
        if tuple_ is None or tuple_.opcode != "tuple" or index >= len(tuple_.operands):
            return None
        value = _value(program, computation, tuple_.operands[index], {}, 0)
        return value.constant if value and value.carried is None else None

    def steps(index: int) -> int | None:
        root = body.instructions.get(body.root)
        if root is None or root.opcode != "tuple" or index >= len(root.operands):
            return None
        value = _value(program, body, root.operands[index], {}, 0, carried_constants(index))
        return value.constant if value and value.carried == index else None

    def carried_constants(counter: int) -> Mapping[int, int]:
        """Constants that the loop carries unchanged; the counter is none."""
        root = body.instructions[body.root]
        indices = [k for k in range(len(root.operands)) if k != counter]
        same = [k for k in indices if _value(program, body, root.operands[k], {}, 0) == _Value(k, 0)]
        return {k: value for k in same if (value := start(k)) is not None}

    left, right, direction = compare.left, compare.right, compare.direction
    if left is None or right is None:
        return None
    if left.carried is None or (right.carried is not None and steps(left.carried) in (0, None)):
        left, right, direction = (
            right,
            left,
            {"LT": "GT", "GT": "LT", "LE": "GE", "GE": "LE"}.get(direction, direction),
        )
    if left.carried is None:
        return None
    step, first = steps(left.carried), start(left.carried)
    limit = right.constant if right.carried is None else None
    if right.carried is not None and steps(right.carried) == 0:
        begin = start(right.carried)
        limit = None if begin is None else begin + right.constant
    if limit is None or not step:
        return None
    distance = limit - (first or 0) - left.constant
    distance += {"LE": 1, "GE": -1}.get(direction, 0)
    rising = direction in ("LT", "LE") or (direction == "NE" and step > 0)
    if rising != (step > 0):
        return None
    return max(0, math.ceil(distance / step))


def _comparisons(
    program: HloProgram, computation: Computation, name: str, bound: Mapping, alone: bool, depth: int
) -> list[_Compare]:
    """The comparisons that all must hold for a condition to hold."""
    instruction = computation.instructions.get(name)
    if instruction is None or depth > DEEP:
        return []
    if instruction.opcode == "compare":
        left, right = (
            _value(program, computation, operand, bound, 0) for operand in instruction.operands[:2]
        )
        return [_Compare(left, right, instruction.attribute(r"direction=(\w+)"), alone)]
    if instruction.opcode == "and":
        parts = [
            _comparisons(program, computation, each, bound, False, depth + 1) for each in instruction.operands
        ]
        return [compare for part in parts for compare in part]
    if instruction.opcode in ("fusion", "call"):
        inner, inside = _entered(program, computation, instruction, bound)
        return _comparisons(program, inner, inner.root, inside, alone, depth + 1)
    if instruction.opcode == "parameter" and bound:
        outer, argument, before = bound[int(instruction.literal)]
        return _comparisons(program, outer, argument, before, alone, depth + 1)
    if instruction.opcode in _SAME:
        return _comparisons(program, computation, instruction.operands[0], bound, alone, depth + 1)
    return []


def _entered(
    program: HloProgram, computation: Computation, instruction: Instruction, bound: Mapping
) -> tuple[Computation, Mapping]:
    """The computation of a fusion or call, and where its parameters come from."""
    inner = program.computations[instruction.called("calls") or instruction.called("to_apply")]
    return inner, {i: (computation, each, bound) for i, each in enumerate(instruction.operands)}


def _value(
    program: HloProgram,
    computation: Computation,
    name: str,
    bound: Mapping,
    depth: int,
    known: Mapping[int, int] | None = None,
) -> _Value | None:
    """What a scalar is, None where it is neither a constant nor a carried value plus one."""
    instruction = computation.instructions.get(name)
    if instruction is None or depth > DEEP:
        return None

    def follow(operand: str) -> _Value | None:
        return _value(program, computation, operand, bound, depth + 1, known)

    opcode = instruction.opcode
    if opcode == "constant":
        literal = _literal(instruction)
        return None if literal is None else _Value(None, literal)
    if opcode in _SAME:
        return follow(instruction.operands[0])
    if opcode == "get-tuple-element":
        return _carried(program, computation, instruction, bound, known)
    if opcode in ("fusion", "call"):
        inner, inside = _entered(program, computation, instruction, bound)
        return _value(program, inner, inner.root, inside, depth + 1, known)
    if opcode == "parameter" and bound:
        outer, argument, before = bound[int(instruction.literal)]
        return _value(program, outer, argument, before, depth + 1, known)
    if opcode in ("add", "subtract", "minimum") and len(instruction.operands) == 2:
        return _combined(opcode, follow(instruction.operands[0]), follow(instruction.operands[1]))
    return None


def _carried(
    program: HloProgram,
    computation: Computation,
    instruction: Instruction,
    bound: Mapping,
    known: Mapping[int, int] | None,
) -> _Value | None:
    index = int(instruction.attribute(r"index=(\d+)"))
    tuple_ = computation.operand(instruction, 0)
    if tuple_ is None or tuple_.opcode != "parameter":
        return None
    if known and index in known:
        return _Value(None, known[index])
    return _Value(index, 0)


def _combined(opcode: str, left: _Value | None, right: _Value | None) -> _Value | None:
    if opcode == "minimum":  # an upper bound: the smaller of the constants that are known
        constants = [v.constant for v in (left, right) if v and v.carried is None]
        return _Value(None, min(constants), False) if constants else None
    if left is None or right is None or (left.carried is not None and right.carried is not None):
        return None
    sign = 1 if opcode == "add" else -1
    if sign < 0 and right.carried is not None:
        return None
    carried = left.carried if left.carried is not None else right.carried
    return _Value(carried, left.constant + sign * right.constant, left.exact and right.exact)


def _literal(instruction: Instruction) -> int | None:
    return int(instruction.literal) if re.fullmatch(r"-?\d+", instruction.literal.strip()) else None
