"""Collectives of an HLO program: what each moves between devices, by the size and place of its groups.

Bytes are those that one device sends in a ring, the least that any algorithm needs: (n - 1) shards for an all-gather of
n, (n - 1)/n of its input for a reduce-scatter, both for an all-reduce.
"""

import itertools
import math
import re
from typing import NamedTuple

from jaxtrain.apps.plan import hlo_text
from jaxtrain.apps.plan.hlo_text import Computation, HloProgram, Instruction

KINDS = (
    "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all",
    "collective-broadcast",
)  # fmt: skip


class Collective(NamedTuple):
    """One collective of a program, with the bytes that a device sends in one run of it."""

    kind: str
    group: int  # devices that take part together
    sent: float  # bytes, over all links
    crossing: (
        float  # of them bytes, a device's share of what must go from one domain of fast links to another
    )
    memory: float  # bytes read from and written to HBM
    shape: str
    source: str  # file:line
    op_name: str
    runs: float  # times in one run of the program
    in_loop: bool


def kind_of(instruction: Instruction) -> str:
    """The kind of a collective, also where it only starts; empty for all other instructions."""
    name = instruction.opcode.removesuffix("-start")
    return name if name in KINDS else ""


def is_done(instruction: Instruction) -> bool:
    """Whether it waits for what another instruction started."""
    return instruction.opcode.endswith(("-done", "-update"))


def collective(
    program: HloProgram,
    computation: Computation,
    instruction: Instruction,
    domain: int,
    runs: float,
    in_loop: bool,
    fusion: Instruction | None = None,
) -> Collective:
    """A collective as data, with the fusion that it is in.

    `domain` is the number of devices, consecutive in the mesh, that fast links join.
    """
    kind = kind_of(instruction)
    arrays = [
        shape for n in range(len(instruction.operands)) for shape in _array(computation, instruction, n)
    ]
    size = sum(shape.size for shape in arrays)
    main = sum(shape.size for shape in arrays if shape.space == 0)
    if computation.name.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"  # the TPU's compiler keeps an all-reduce and the slice of it in one kernel
    groups = pairs(instruction) if kind == "collective-permute" else replica_groups(program, instruction)
    n = max(map(len, groups))
    sent, written = _ring(kind, size, n)
    domains = max(len({device // domain for device in group}) for group in groups)
    return Collective(
        kind=kind,
        group=n,
        sent=sent,
        crossing=_crossing(kind, size, n, domains),
        memory=main + (written if main else 0.0),
        shape=", ".join(f"{s.dtype}[{','.join(map(str, s.dims))}]" for s in arrays),
        source=_source(program, computation, instruction, 0)
        or (hlo_text.source(program, fusion) if fusion else ""),
        op_name=instruction.op_name or (fusion.op_name if fusion else ""),
        runs=runs,
        in_loop=in_loop,
    )


def _array(computation: Computation, instruction: Instruction, index: int) -> tuple[hlo_text.Shape, ...]:
    operand = computation.operand(instruction, index)
    return operand.shapes if operand is not None else ()


def _ring(kind: str, size: float, n: int) -> tuple[float, float]:
    """(bytes sent, bytes of the result) of a device whose input has `size` bytes."""
    if kind == "all-gather":
        return size * (n - 1), size * n
    if kind == "all-reduce":
        return 2 * size * (n - 1) / n, size
    if kind == "reduce-scatter":
        return size * (n - 1) / n, size / n
    if kind in ("collective-permute", "collective-broadcast"):
        return size, size
    return size * (n - 1) / n, size  # all-to-all


def _crossing(kind: str, size: float, n: int, domains: int) -> float:
    """A device's share of the bytes that must pass between d domains: each needs all that lies in the others once."""
    d = domains
    if d == 1:
        return 0.0
    if kind == "all-gather":
        return size * (d - 1)
    if kind == "all-reduce":
        return 2 * size * (d - 1) / n
    if kind == "reduce-scatter":
        return size * (d - 1) / n
    if kind in ("collective-permute", "collective-broadcast"):
        return size
    return size * (d - 1) / d


def replica_groups(program: HloProgram, instruction: Instruction) -> list[list[int]]:
    """The groups of devices, in each of the forms that HLO prints. Raises ValueError for another form."""
    text = instruction.attribute(r"replica_groups=(.*?)(?:, [a-z_]+[=:]|$)")
    if found := re.match(r"\{(\{.*\})\}", text):
        return [[int(n) for n in group.split(",")] for group in re.findall(r"\{([\d,]+)\}", found.group(1))]
    if re.match(r"\{\}", text) or not text:
        return [list(range(program.devices))]
    if found := re.match(r"\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        flat = _iota(found.group(3), found.group(4))
        size = int(found.group(2))
        return [flat[i : i + size] for i in range(0, len(flat), size)]
    if text.startswith("mesh["):
        return _mesh_groups(instruction.attributes)
    raise ValueError(f"replica_groups in a form that is not known: {text}")


def pairs(instruction: Instruction) -> list[list[int]]:
    """The (from, to) of a collective-permute."""
    text = instruction.attribute(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}")
    return [[int(a), int(b)] for a, b in re.findall(r"\{(\d+),(\d+)\}", text)] or [[0]]


def _iota(dims: str, order: str | None) -> list[int]:
    """The numbers 0, 1, ... of an array of these dimensions, transposed, flat."""
    sizes = [int(n) for n in dims.split(",")]
    axes = [int(n) for n in order.split(",")] if order else list(range(len(sizes)))
    strides = [math.prod(sizes[i + 1 :]) for i in range(len(sizes))]
    out = [0]
    for axis in axes:
        out = [base + k * strides[axis] for base in out for k in range(sizes[axis])]
    return out


def _mesh_groups(attributes: str) -> list[list[int]]:
    """Groups along named axes: `mesh['a'=2,'b'=4] {'b'}`, of devices in order or, with device_ids, transposed."""
    found = re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}",
        attributes,
    )
    if found is None:
        raise ValueError(f"replica_groups in a form that is not known: {attributes[:120]}")
    axes, dims, order, along = found.groups()
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", axes)}
    flat = _iota(dims or ",".join(map(str, sizes.values())), order)
    chosen = re.findall(r"'(\w+)'", along)
    groups: dict[tuple[int, ...], list[int]] = {}
    for device, coordinates in zip(flat, itertools.product(*map(range, sizes.values())), strict=True):
        key = tuple(c for name, c in zip(sizes, coordinates, strict=True) if name not in chosen)
        groups.setdefault(key, []).append(device)
    return list(groups.values())


def _source(program: HloProgram, computation: Computation, instruction: Instruction, depth: int) -> str:
    """The source line of an instruction, or of what it reads where the compiler combined several into one."""
    line = hlo_text.source(program, instruction)
    if line or depth > 8:
        return line
    inner = program.computations.get(instruction.called("calls"))
    if inner is not None:
        lines = (hlo_text.source(program, each) for each in reversed(inner.instructions.values()))
        if line := next(filter(None, lines), ""):
            return line
    for index in range(len(instruction.operands)):
        operand = computation.operand(instruction, index)
        if operand is not None and (line := _source(program, computation, operand, depth + 1)):
            return line
    return ""
