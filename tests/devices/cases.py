"""The stages that are compiled for devices that are not there, at a size that a test can afford."""

import importlib.metadata
import importlib.util
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from experiments import plan
from jaxtrain import flags
from jaxtrain.apps.plan import compiler, topologies
from jaxtrain.apps.plan.request import PlanRequest
from jaxtrain.apps.plan.types import CompiledStage
from jaxtrain.config import ConfigError

# T % 128 = 0 and C % 64 = 0, so that splash takes it. No two sizes are equal, so that a shape says what it is of.
V, T = 2048, 384
P = 512  # places of a prompt of 384 - 64 tokens
MODEL = f"nano,layers=2,width=256,heads=4,kv_heads=2,ff=640,vocab={V}"
SMALL = (
    f"--model={MODEL}", "--mesh=fsdp:-1", "--batch_size=8", f"--seq_len={T}", "--logits_limit_mb=1"
)  # fmt: skip
STAGES = {
    "pretrain": ("pretrain", ()),
    "sft": ("sft", ()),
    "reward": ("reward", ()),
    "dpo": ("dpo", ()),
    "ppo": ("ppo", ("--max_new=64", "--reward=gold", "--ptx_weight=0")),
    "grpo": ("grpo", ("--max_new=64", "--reward=gold", "--group=4")),
    "distill": ("distill", ()),
    "lora": ("sft", ("--lora_rank=4",)),
    "int8": ("pretrain", ("--matmul_dtype=int8",)),
    "sample": ("sample", ("--max_new=64",)),
}
OF_GPU = {"fp8": ("pretrain", ("--matmul_dtype=fp8",))}  # no TPU of today has units for it
GOLDEN = Path(__file__).with_name("golden.json")  # compiler -> chip -> stage -> program -> bytes


def request(name: str, chip: str, *flags_: str, exact: bool = False, only: Sequence[str] = ()) -> PlanRequest:
    """A stage of STAGES or OF_GPU at its small size, or with other flags."""
    stage, own = {**STAGES, **OF_GPU}[name]
    cfg = flags.from_flags(plan.stage_class(stage), [*SMALL, *own, *flags_])
    return PlanRequest(stage, cfg, chip, exact, tuple(only))


def compiled(requests: Sequence[PlanRequest]) -> Iterator[CompiledStage]:
    """The compiled stages, in order, from one process."""
    for answer in compiler.compile_all(requests):
        if isinstance(answer, ConfigError):
            raise answer
        yield answer


def missing(chip: str) -> str:
    """Why nothing can be compiled for a chip here; empty: it can."""
    try:
        topologies.require(topologies.parse(chip))
    except ConfigError as error:
        return str(error)
    return ""


def release(chip: str) -> str:
    """The compiler of a chip and its version without the patch, `libtpu 0.0.42`."""
    package = "libtpu" if topologies.parse(chip).chip.platform == "tpu" else "jax-cuda12-plugin"
    return f"{package} {'.'.join(importlib.metadata.version(package).split('.')[:3])}"


def golden(chip: str) -> dict:
    """stage -> program -> bytes of temporaries and arguments, of this compiler; empty where it has none."""
    return json.loads(GOLDEN.read_text()).get(release(chip), {}).get(chip, {})


def memory(stage: CompiledStage) -> dict[str, dict[str, int]]:
    """What golden.json has of a stage."""
    return {
        program.name: {"arguments": program.memory.arguments, "temporaries": program.memory.temporaries}
        for program in stage.programs
    }
