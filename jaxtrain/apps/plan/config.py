"""Flags of the plan command; the others are those of the stage that it plans."""

import dataclasses

from jaxtrain import config


@dataclasses.dataclass(frozen=True)
class PlanFlags(config.Group):
    # fmt: off
    stage: str = config.arg("pretrain",
        "Whose step is compiled: a training command, whose own flags follow, or sample", choices=(
            "pretrain", "sft", "reward", "dpo", "ppo", "grpo", "distill", "sample"))
    chip: str = config.arg("",
        "The devices: CHIP:SIZE, such as v5e:4x4, v5p:4x4x4, v6e:8x8, h100:8 (h100:4x8 for 4 machines), or "
        "2xv5e:4x4 for two slices")
    exact: bool = config.arg(False,
        "Compile at the compiler's full effort, 4 times slower: on a TPU communication is only right so")
    search: bool = config.arg(False, "Also try other meshes, batches and --remat, and list the fastest that fit")
    row: bool = config.arg(False, "Print a row of a table in place of the report: GiB, milliseconds, MFU")
    # fmt: on


@dataclasses.dataclass(frozen=True)
class SampleStage:
    """The flags of `--stage=sample`: --batch_size completions, each of --seq_len tokens with its prompt."""

    model: config.Model = config.group(config.Model)
    data: config.Data = config.group(config.Data, seq_len=512, batch_size=128)
    optim: config.Optim = config.group(config.Optim)
    lora: config.Lora = config.group(config.Lora)
    samples: config.Samples = config.group(config.Samples, max_new=256)
    run: config.Run = config.group(config.Run)
