"""Which flags make a stage fit a device that it does not fit, the cheapest in speed first."""

import math

from jaxtrain import config
from jaxtrain.apps.plan.chips import GIB
from jaxtrain.apps.plan.types import CompiledStage

SAMPLING = ("reshard", "prefill", "decode")
_REMAT = {
    "dots": "--remat=dots: keeps the results of products and attention, and computes the rest again",
    "full": "--remat=full: keeps the input of each layer, and computes it again",
}
_MORE_REMAT = {"none": ("dots", "full"), "auto": ("full",), "dots": ("full",)}


def remedies(stage: CompiledStage, program: str) -> list[str]:
    """Flags to change where a program of this name does not fit, each with what it does."""
    flags = _sampling(stage) if program in SAMPLING else _training(stage)
    return [*flags, *_layout(stage), f"a larger slice than --chip={stage.chip}"]


def _rows(stage: CompiledStage) -> int:
    """Rows of a batch on one device."""
    return max(1, stage.batch_size // math.prod(stage.mesh.get(axis, 1) for axis in config.ROW_AXES))


def _training(stage: CompiledStage) -> list[str]:
    flags = [_REMAT[more] for more in _MORE_REMAT.get(stage.remat, ())]
    rows = _rows(stage)
    parts = next((n for n in range(stage.microbatches + 1, rows + 1) if rows % n == 0), 0)
    if parts:
        flags.append(f"--microbatches={parts}: of {rows} rows of a device {rows // parts} at once")
        size = stage.batch_size // rows * max(1, rows // 2)
        flags.append(f"--batch_size={size}: half the rows")
    flags.append("--logits_limit_mb=256: smaller chunks of the logits, where they are large")
    return flags


def _sampling(stage: CompiledStage) -> list[str]:
    cache = stage.held.get("KV cache", 0) / GIB
    flags = [f"fewer completions at once (--minibatches, --batch_size): the KV cache has {cache:.2f} GiB"]
    return flags if cache else ["fewer completions at once: --minibatches, --batch_size"]


def _layout(stage: CompiledStage) -> list[str]:
    """Other meshes. What a device holds all the time is divided by fsdp and tensor; data repeats it."""
    data, tensor, context = (stage.mesh.get(axis, 1) for axis in ("data", "tensor", "context"))
    state = sum(stage.held.get(kind, 0) for kind in ("parameters", "optimizer", "frozen")) / GIB
    kept = f",tensor:{tensor}" * (tensor > 1) + f",context:{context}" * (context > 1)
    flags = []
    if data > 1:
        flags.append(
            f"--mesh=fsdp:-1{kept}: parameters and optimizer in {data} times as many parts, {state / data:.2f} GiB "
            f"instead of {state:.2f}"
        )
    if _rows(stage) == 1 and stage.devices > tensor * context:
        flags.append(
            f"--mesh=fsdp:-1,context:{2 * context}{f',tensor:{tensor}' * (tensor > 1)}: a row on {2 * context} "
            "devices, with half of --batch_size"
        )
    if stage.devices > tensor * context:
        flags.append(
            f"--mesh=fsdp:-1,tensor:{2 * tensor}: each layer on {2 * tensor} devices, with more communication"
        )
    return flags
