"""What must be, and must not be, in the text of a compiled program."""

import math
import re
from collections.abc import Iterator

import pytest

from jaxtrain.apps.plan import program_cost
from jaxtrain.apps.plan.types import CompiledProgram, CompiledStage
from tests.devices import cases


def shapes(text: str, dtypes: str = r"\w+") -> Iterator[tuple[str, tuple[int, ...]]]:
    """(type, dimensions) of every array of a program's text, once each."""
    for dtype, dims in set(re.findall(rf"\b({dtypes})\[([\d,]+)\]", text)):
        yield dtype, tuple(map(int, dims.split(",")))


def logits(text: str, vocab: int, length: int) -> list[str]:
    """Arrays in f32 of a whole row's logits or more: they have the vocabulary, and at least T times its numbers."""
    return sorted(
        f"{dtype}{list(dims)}"
        for dtype, dims in shapes(text, "f32")
        if vocab in dims and math.prod(dims) >= vocab * length
    )


def squares(text: str, length: int, dtypes: str = r"\w+", least: int = 0) -> list[str]:
    """Arrays with a number for each query and key, of `least` numbers or more; masks of a byte are counted too."""
    return sorted(
        f"{dtype}{list(dims)}"
        for dtype, dims in shapes(text, dtypes)
        if dims.count(length) > 1 and math.prod(dims) >= least
    )


def kernels(text: str, target: str) -> int:
    """Calls of a kernel that begins with `target`."""
    return len(re.findall(rf'custom_call_target="{re.escape(target)}', text))


def looped_gathers(program: CompiledProgram, least: int) -> list[str]:
    """All-gathers inside a loop of which a device sends at least so many bytes each time."""
    found = program_cost.cost(program.text).collectives
    return [
        f"{each.kind} {each.shape} {each.source}"
        for each in found
        if each.in_loop and "gather" in each.kind and each.sent >= least
    ]


def program(stage: CompiledStage, name: str) -> CompiledProgram:
    """A program of a stage by its name."""
    (found,) = [each for each in stage.programs if each.name == name]
    return found


def require_golden_memory(stage: CompiledStage, name: str, chip: str) -> None:
    """Fails unless the memory of each program is within 5 % of golden.json's, and skips where that has none."""
    wanted = cases.golden(chip)
    if not wanted:
        pytest.skip(f"golden.json has nothing of {cases.release(chip)}: python -m tests.devices.golden")
    for program_name, sizes in cases.memory(stage).items():
        assert sizes == pytest.approx(wanted[name][program_name], rel=0.05), program_name
