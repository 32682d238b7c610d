"""What the compiler of a device says of a stage: the programs of one plan, and what each device holds."""

from collections.abc import Mapping
from typing import NamedTuple


class ProgramMemory(NamedTuple):
    """Bytes on one device, by the compiler's own account."""

    arguments: int
    outputs: int
    aliased: int  # of the outputs, those that lie in arguments' memory
    temporaries: int
    code: int

    @property
    def peak(self) -> int:
        """Bytes held while the program runs."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code


class CompiledProgram(NamedTuple):
    """A program that was compiled for a device."""

    name: str  # train step, reshard, prefill, decode, annotate
    text: str  # the optimized HLO
    memory: ProgramMemory
    runs: float  # times that it runs for one training step
    compile_seconds: float


class CompiledStage(NamedTuple):
    """All programs of a stage on one plan."""

    stage: str
    model: str
    chip: str  # as --chip names it: v5p:4x4x4, h100:8
    device_kind: str
    devices: int
    hosts: int
    mesh: Mapping[str, int]  # axis -> size
    batch_size: int
    seq_len: int
    remat: str
    exact: bool  # compiled at the compiler's full effort
    parameters: int  # number, of all trained and frozen models
    model_flops: float  # of one training step, over all devices; nothing recomputed is counted
    held: Mapping[str, int]  # bytes on one device by kind: parameters, optimizer, frozen, KV cache, batch
    programs: tuple[CompiledProgram, ...]
