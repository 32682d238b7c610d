"""Optimized HLO text, as a compiled program prints it, as data: computations, instructions, shapes and source lines.

One parser for the text of the TPU's, the GPU's and the CPU's compilers. Nothing of jax is imported.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

BYTES = {
    "pred": 1, "s2": 0.25, "u2": 0.25, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "s32": 4, "u32": 4,
    "s64": 8, "u64": 8, "bf16": 2, "f16": 2, "f32": 4, "f64": 8, "c64": 8, "c128": 16, "f4e2m1fn": 0.5, "f8e3m4": 1,
    "f8e4m3": 1, "f8e4m3b11fnuz": 1, "f8e4m3fn": 1, "f8e4m3fnuz": 1, "f8e5m2": 1, "f8e5m2fnuz": 1, "f8e8m0fnu": 1,
}  # fmt: skip
_SHAPE = re.compile(rf"\b({'|'.join(BYTES)})\[([\d,<=]*)\](?:\{{([^}}]*)\}})?")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_START = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_OPCODE = re.compile(r"\s*([a-z][\w\-]*)\(")
_PROJECT = re.compile(r"(?:^|/)((?:jaxtrain|experiments)/.*)$")


class Shape(NamedTuple):
    """An array's shape; `size` is the bytes that it takes as it lies, the padding of a TPU's tiles included."""

    dtype: str
    dims: tuple[int, ...]
    size: float
    space: int  # 0: the device's main memory (HBM); others lie in the chip (VMEM, SMEM, flags) or on the host


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]  # of the result: one, or a tuple's leaves in order
    operands: tuple[str, ...]
    literal: str  # what stands between the parentheses: a parameter's number, a constant's value
    attributes: str

    def attribute(self, pattern: str) -> str:
        """The first group of a pattern in the attributes, empty where it is not there."""
        found = re.search(pattern, self.attributes)
        return found.group(1) if found else ""

    def called(self, key: str) -> str:
        """The computation that an attribute names, such as calls, body, condition, to_apply."""
        return self.attribute(rf"\b{key}=%?([\w.\-]+)")

    @property
    def op_name(self) -> str:
        """jax's path to the operation, `jit(step)/while/body/dot_general`."""
        return self.attribute(r'op_name="([^"]*)"')


class Computation(NamedTuple):
    """Instructions in the order in which they run."""

    name: str
    instructions: Mapping[str, Instruction]
    root: str
    users: Mapping[str, tuple[str, ...]]  # instruction -> those that read it

    def operand(self, instruction: Instruction, index: int) -> Instruction | None:
        """The instruction behind an operand, None where there is none."""
        names = instruction.operands
        return self.instructions.get(names[index]) if index < len(names) else None

    def parameter(self, index: int) -> Instruction | None:
        """The parameter with this number."""
        each = (i for i in self.instructions.values() if i.opcode == "parameter")
        return next((i for i in each if i.literal.strip() == str(index)), None)


class HloProgram(NamedTuple):
    """A module: its computations, and where in the Python source its instructions come from."""

    computations: Mapping[str, Computation]
    entry: str
    devices: int
    frames: Mapping[int, tuple[str, int]]  # frame -> (file, line), of the innermost frame inside this project


def parse(text: str) -> HloProgram:
    """The program of a text. Raises ValueError where it has no entry computation."""
    computations, entry, name, lines = {}, "", "", []
    for line in _logical_lines(text):
        if header := _HEADER.match(line):
            name, lines = header.group(2), []
            entry = name if header.group(1) else entry
        elif line.startswith("}"):
            if name:
                computations[name] = _computation(name, lines)
            name = ""
        elif name:
            lines.append(line)
    if not entry:
        raise ValueError("the text is not HLO: it has no ENTRY computation")
    head = text[: text.index("\n")]
    counts = re.findall(r"\b(?:num_partitions|replica_count)=(\d+)", head)
    return HloProgram(computations, entry, math.prod(map(int, counts)), _frames(text))


def source(program: HloProgram, instruction: Instruction) -> str:
    """`file:line` of the Python code that an instruction comes from, empty where the text does not say."""
    if found := re.search(r'source_file="([^"]*)" source_line=(\d+)', instruction.attributes):
        return f"{_relative(found.group(1))}:{found.group(2)}"
    frame = instruction.attribute(r"stack_frame_id=(\d+)")
    if not frame or int(frame) not in program.frames:
        return ""
    file, line = program.frames[int(frame)]
    return f"{_relative(file)}:{line}"


def shapes(text: str) -> tuple[Shape, ...]:
    """All array shapes in a text, in order. Tokens and opaque values are none."""
    return tuple(_shape(*found) for found in _SHAPE.findall(text))


def _shape(dtype: str, dims: str, layout: str) -> Shape:
    sizes = tuple(int(n.removeprefix("<=")) for n in dims.split(",") if n)
    space = re.search(r"S\((\d+)\)", layout)
    elements = math.prod(_padded(sizes, layout))
    return Shape(dtype, sizes, elements * BYTES[dtype], int(space.group(1)) if space else 0)


def _padded(dims: tuple[int, ...], layout: str) -> list[int]:
    """Dimensions rounded up to whole tiles: `1,0:T(8,128)` says which are the most minor, and their tile."""
    tile = re.search(r"T\(([\d,]+)\)", layout)
    if not tile:
        return list(dims)
    order = [int(n) for n in layout.split(":")[0].split(",") if n]
    sizes = list(dims)
    for dim, step in zip(order, reversed([int(n) for n in tile.group(1).split(",")]), strict=False):
        sizes[dim] = -(-sizes[dim] // step) * step
    return sizes


def _logical_lines(text: str) -> Iterator[str]:
    """Lines; an instruction whose attributes hold line breaks is one."""
    pending = ""
    for line in text.split("\n"):
        starts = _START.match(line) or _HEADER.match(line) or line.rstrip() == "}" or not line.strip()
        if starts and pending:
            yield pending
            pending = ""
        if _START.match(line) or pending:
            pending += line
        else:
            yield line.rstrip()
    if pending:
        yield pending


def _computation(name: str, lines: list[str]) -> Computation:
    instructions, root = {}, ""
    for line in lines:
        start = _START.match(line)
        if start is None:
            raise ValueError(f"no instruction of HLO in {name}: {line[:80]}")
        instruction = _instruction(start.group(2), line[start.end() :])
        instructions[instruction.name] = instruction
        root = instruction.name if start.group(1) else root
    users: dict[str, list[str]] = {}
    for each in instructions.values():
        for operand in dict.fromkeys(each.operands):
            users.setdefault(operand, []).append(each.name)
    return Computation(name, instructions, root, {key: tuple(names) for key, names in users.items()})


def _instruction(name: str, text: str) -> Instruction:
    end = _closing(text, 0) if text.startswith("(") else text.index(" ")
    opcode = _OPCODE.match(text, end)
    if opcode is None:
        raise ValueError(f"no operation in the instruction {name} = {text[:80]}")
    stop = _closing(text, opcode.end() - 1)
    inside = text[opcode.end() : stop - 1]
    operands = tuple(re.findall(r"%([\w.\-]+)", inside))
    return Instruction(name, opcode.group(1), shapes(text[:end]), operands, inside, text[stop:])


def _closing(text: str, start: int) -> int:
    """The place after the parenthesis that closes the one at `start`."""
    depth = 0
    for found in re.compile(r"[()]").finditer(text, start):
        depth += 1 if found.group() == "(" else -1
        if depth == 0:
            return found.end()
    raise ValueError(f"a parenthesis is not closed: {text[start : start + 80]}")


def _relative(path: str) -> str:
    found = _PROJECT.search(path)
    return found.group(1) if found else path


def _frames(text: str) -> dict[int, tuple[str, int]]:
    """frame -> (file, line): the innermost of its frames whose file is of this project, else the innermost.

    Four tables after the first line say it: files, functions, locations and frames, each of which has a parent.
    """
    head = text[: text.find("\nENTRY")]
    files = dict(re.findall(r'^(\d+) "([^"]*)"$', _table(head, "FileNames"), re.M))
    places = {
        number: (files.get(file, ""), int(line))
        for number, file, line in re.findall(
            r"^(\d+) \{file_name_id=(\d+) .*?line=(\d+)", _table(head, "FileLocations"), re.M
        )
    }
    rows = re.findall(
        r"^(\d+) \{file_location_id=(\d+)(?: parent_frame_id=(\d+))?", _table(head, "StackFrames"), re.M
    )
    # Printed parents are numbered from 1 with 0 for none; a frame that names itself shows that all are one too high.
    shift = any(number == parent for number, _, parent in rows)
    parents = {int(number): int(parent or 0) - shift for number, _, parent in rows}
    own = {int(number): places[place] for number, place, _ in rows if place in places}
    return {number: _innermost(number, own, parents) for number in own}


def _innermost(
    number: int, own: Mapping[int, tuple[str, int]], parents: Mapping[int, int]
) -> tuple[str, int]:
    here, seen = number, set[int]()
    while here in own and here not in seen:
        file = own[here][0]
        if _PROJECT.search(file) and "site-packages" not in file:
            return own[here]
        seen.add(here)
        here = parents.get(here, 0)
    return own[number]


def _table(text: str, name: str) -> str:
    found = re.search(rf"^{name}\n(.*?)(?:\n\n|\Z)", text, re.M | re.S)
    return found.group(1) if found else ""
