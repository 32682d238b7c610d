"""Bytes that an HLO instruction moves to and from HBM.

What is fused stays in the chip: an instruction reads its operands and writes its result once. Of an operand that is
only sliced, the slice is read; of a result that is an update in place, the update is written. Arrays in the chip's own
memory (VMEM) cost nothing, and a kernel is taken to read each operand once.
"""

from jaxtrain.apps.plan.collectives import is_done, kind_of
from jaxtrain.apps.plan.flops import custom_target
from jaxtrain.apps.plan.hlo_text import Computation, HloProgram, Instruction, Shape

# They move nothing, or are entered.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all",
    "partition-id", "replica-id", "opt-barrier", "optimization-barrier", "domain", "add-dependency",
}  # fmt: skip
_SAME = ("bitcast", "reshape", "transpose", "copy")  # of an operand, inside a fusion
_NO_KERNELS = (
    "AllocateBuffer",
    "ConcatBitcast",
    "AssumeGatherIndicesInBound",
    "GatherScatterIndicesBitpacked",
)
FUSED = ("fusion", "fusion-start", "async-start")  # what they call runs as one kernel
DEEP = 8  # instructions inside a fusion that an operand is followed through


def traffic(program: HloProgram, computation: Computation, instruction: Instruction) -> float:
    """Bytes read and written by one run of an instruction; collectives count for themselves (collectives.py)."""
    opcode = instruction.opcode
    if opcode in _FREE or is_done(instruction) or kind_of(instruction):
        return 0.0
    if opcode == "custom-call" and custom_target(instruction) in _NO_KERNELS:
        return 0.0
    if opcode == "copy-start":  # (to, from, flag)
        return sum(map(_main, instruction.shapes[:2]))
    if opcode == "slice-start":  # ((from, ...), to, flag)
        part = next(shape for shape in reversed(instruction.shapes) if shape.dims)
        source = computation.operand(instruction, 0)
        return _main(part) + (part.size if source is not None and _in_memory(source) else 0.0)
    inner = program.computations.get(instruction.called("calls"))
    if inner is not None and opcode in FUSED:
        read = sum(
            _read(program, inner, n)
            for n in range(len(instruction.operands))
            if (operand := computation.operand(instruction, n)) is not None and _in_memory(operand)
        )
        return read + _written(program, inner, instruction)
    if opcode in ("dynamic-slice", "gather", "slice"):
        return 2 * sum(map(_main, instruction.shapes))
    if opcode in ("dynamic-update-slice", "scatter"):
        return 2 * _update(computation, instruction)
    operands = [computation.operand(instruction, n) for n in range(len(instruction.operands))]
    return sum(map(_main, instruction.shapes)) + sum(
        _main(shape) for each in operands if each is not None for shape in each.shapes
    )


def _main(shape: Shape) -> float:
    return shape.size if shape.space == 0 else 0.0


def _in_memory(instruction: Instruction) -> bool:
    return any(shape.space == 0 for shape in instruction.shapes)


def _size(instruction: Instruction) -> float:
    return sum(shape.size for shape in instruction.shapes)


def _update(computation: Computation, instruction: Instruction) -> float:
    """Bytes of what a dynamic-update-slice or a scatter puts into its operand."""
    index = 1 if instruction.opcode == "dynamic-update-slice" else len(instruction.operands) - 1
    operand = computation.operand(instruction, index)
    return _size(operand) if operand is not None else _size(instruction)


def _read(program: HloProgram, inner: Computation, index: int) -> float:
    """Bytes that a fusion reads of one parameter."""
    parameter = inner.parameter(index)
    if parameter is None:
        return 0.0
    return min(_size(parameter), _read_of(program, inner, parameter, 0))


def _read_of(program: HloProgram, inner: Computation, value: Instruction, depth: int) -> float:
    """Bytes that are read of a value inside a fusion: of slices, the slices."""
    full, total = _size(value), 0.0
    if depth > DEEP or (depth and value.name == inner.root):
        return full
    for name in inner.users.get(value.name, ()):
        user = inner.instructions[name]
        first = user.operands[0] == value.name
        if user.opcode in ("dynamic-slice", "gather", "slice") and first:
            total += _size(user)
        elif user.opcode in ("dynamic-update-slice", "scatter") and first:
            continue  # updated in place
        elif user.opcode in _SAME:
            total += _read_of(program, inner, user, depth + 1)
        elif user.opcode == "convert":
            total += _read_of(program, inner, user, depth + 1) * full / max(1.0, _size(user))
        elif (user.opcode == "tuple" and not depth) or kind_of(user) or is_done(user):
            continue  # passed on; a collective counts for itself
        elif user.opcode == "fusion":
            nested = program.computations[user.called("calls")]
            total += sum(
                _read(program, nested, n) for n, each in enumerate(user.operands) if each == value.name
            )
        else:
            return full
    return total


def _written(program: HloProgram, inner: Computation, instruction: Instruction) -> float:
    """Bytes that a fusion writes to HBM."""
    root = inner.instructions[inner.root]
    if root.opcode != "tuple":
        return _result(program, inner, root, 0) if _in_memory(instruction) else 0.0
    parts = [inner.instructions[name] for name in root.operands]
    if instruction.opcode == "fusion-start":  # its shapes are those of operands, results and a flag
        return sum(_result(program, inner, part, 0) for part in parts)
    if any(len(part.shapes) != 1 for part in parts) or len(parts) != len(instruction.shapes):
        return sum(map(_main, instruction.shapes))
    return sum(
        _result(program, inner, part, 0)
        for part, shape in zip(parts, instruction.shapes, strict=True)
        if shape.space == 0
    )


def _result(program: HloProgram, inner: Computation, value: Instruction, depth: int) -> float:
    """Bytes that are written for one result of a fusion."""
    if value.opcode == "parameter" or kind_of(value) or is_done(value):
        return 0.0  # passed on, or what a collective wrote
    if value.opcode in ("dynamic-update-slice", "scatter"):
        return _update(inner, value)
    if value.opcode in ("bitcast", "reshape") and depth < DEEP:
        operand = inner.operand(value, 0)
        return _result(program, inner, operand, depth + 1) if operand is not None else _size(value)
    if value.opcode == "fusion" and depth < DEEP:
        nested = program.computations[value.called("calls")]
        root = nested.instructions[nested.root]
        return _size(value) if root.opcode == "tuple" else _result(program, nested, root, depth + 1)
    return _size(value)
