"""HLO modules, written by hand, in the form that compiled programs print."""

from jaxtrain.apps.plan.types import CompiledProgram, CompiledStage, ProgramMemory
from jaxtrain.models import zoo


def module(entry: str, *computations: str, devices: int = 8, tables: str = "") -> str:
    """A module of an entry computation's instructions and other computations, `name: instructions` each."""
    parts = [_computation(*each.split(":", 1)) for each in computations]
    head = f"HloModule jit_step, is_scheduled=true, num_partitions={devices}\n{tables}"
    return "\n\n".join([head, *parts, "ENTRY " + _computation("main", entry)]) + "\n"


def _computation(name: str, lines: str) -> str:
    body = "\n".join(f"  {line.strip()}" for line in lines.strip().splitlines())
    return f"%{name.strip()} (p: f32[]) -> f32[] {{\n{body}\n}}"


def memory(gib: float, arguments: float = 0.0) -> ProgramMemory:
    """Memory of a TPU's program."""
    return ProgramMemory(int(arguments * 2**30), 0, 0, 0, 0, int(gib * 2**30))


def program(name: str, text: str, gib: float = 1.0, **fields) -> CompiledProgram:
    """A program of a made-up compilation."""
    return CompiledProgram(name, text, memory(gib), fields.pop("runs", 1.0), 1.0, **fields)


def stage(*programs: CompiledProgram, **fields) -> CompiledStage:
    """A stage of a small model on a slice of eight v5e."""
    values = {
        "stage": "pretrain", "model": "llama3.2-1b", "chip": "v5e:2x4", "device_kind": "TPU v5 lite", "devices": 8,
        "hosts": 1, "mesh": {"data": 1, "fsdp": 8, "tensor": 1}, "batch_size": 16, "seq_len": 128, "remat": "dots",
        "exact": True, "parameters": 10**9, "model_flops": 8e12, "held": {"parameters": 2**29, "optimizer": 2**30},
        "programs": programs, "arch": zoo.resolve("llama3.2-1b"),
    }  # fmt: skip
    return CompiledStage(**{**values, **fields})
