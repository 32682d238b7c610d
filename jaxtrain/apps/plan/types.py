"""What the compiler of a device says of a stage: the programs of one plan, and what each device holds."""

from collections.abc import Mapping
from typing import NamedTuple

from jaxtrain.models.zoo import Arch


class ProgramMemory(NamedTuple):
    """Bytes on one device, by the compiler's own account."""

    arguments: int
    outputs: int
    aliased: int  # of the outputs, those that lie in arguments' memory
    temporaries: int
    code: int
    live: int = 0  # most at once, as a TPU's compiler counts; 0: a GPU, where temporaries are one block

    @property
    def peak(self) -> int:
        """Bytes held while the program runs."""
        return self.live or self.arguments + self.outputs - self.aliased + self.temporaries + self.code


class CompiledProgram(NamedTuple):
    """A program that was compiled for a device."""

    name: str  # train step, reshard, prefill, decode, annotate, score
    text: str  # the optimized HLO
    memory: ProgramMemory
    runs: float  # times that it runs for one training step
    compile_seconds: float
    tokens: int = 0  # that one run reads or samples, over all devices
    beside: int = 0  # bytes on one device that lie beside it, such as the optimizer's during decode

    @property
    def needed(self) -> int:
        """Bytes that a device must have while it runs."""
        return self.memory.peak + self.beside


class OutOfMemory(NamedTuple):
    """A program that the compiler refuses, as it does not fit a device."""

    name: str
    runs: float
    needed: int  # bytes on one device; 0: the compiler does not say
    available: int
    message: str  # the compiler's
    beside: int = 0


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
    refused: tuple[OutOfMemory, ...] = ()  # programs that do not fit
    arch: Arch | None = None  # of the trained model
    microbatches: int = 1
