"""What a stage needs on a TPU slice or GPUs that are not here: memory, communication, a bound on its speed."""

import dataclasses
import functools
import re
from typing import Any

from jaxtrain import config, flags
from jaxtrain.apps.plan.config import PlanFlags, SampleStage


def stage_class(stage: str) -> type:
    """The config class of a stage's command."""
    from experiments import distill, dpo, grpo, ppo, pretrain, reward, sft

    classes = {
        "pretrain": pretrain.Pretrain,
        "sft": sft.Sft,
        "reward": reward.Reward,
        "dpo": dpo.Dpo,
        "ppo": ppo.Ppo,
        "grpo": grpo.Grpo,
        "distill": distill.Distill,
        "sample": SampleStage,
    }
    if stage not in classes:
        raise config.ConfigError(f"--stage={stage}: choose one of {', '.join(classes)}")
    return classes[stage]


def command(argv: list[str]) -> type:
    """The config class of a command line: the flags of its stage's command, and the plan's own."""
    given = re.findall(r"^--?stage[=\n](.*)$", "\n".join(argv), re.M)
    cls = stage_class(given[-1] if given else PlanFlags.stage)
    return dataclasses.make_dataclass(
        "Plan", [("plan", PlanFlags, config.group(PlanFlags)), *_groups(cls)], frozen=True
    )


def _groups(cls: type) -> list[tuple[str, Any, Any]]:
    """The groups of a config class as fields, with its own defaults."""
    return [
        (field.name, field.type, dataclasses.field(default_factory=field.default_factory))
        for field in dataclasses.fields(cls)
    ]


def main(cfg: Any) -> None:
    """Compiles the stage's programs for the chip, in a process of its own, and prints what they need."""
    from jaxtrain.apps.plan import compiler, report, request

    what = cfg.plan
    cls = stage_class(what.stage)
    own = cls(**{field.name: getattr(cfg, field.name) for field in dataclasses.fields(cls)})
    if not what.chip:
        raise config.ConfigError("--chip: name the devices, such as v5e:4x4, v5p:4x4x4, v6e:8x8 or h100:8")
    wanted = request.PlanRequest(what.stage, own, what.chip, what.exact)
    request.check(wanted)
    stage = compiler.compile_one(wanted)
    print("\n".join([report.row(stage)] if what.row else report.lines(stage)), flush=True)
    if what.search:
        from jaxtrain.apps.plan import search

        print("\n".join(search.propose(wanted, functools.partial(print, flush=True))), flush=True)


if __name__ == "__main__":
    flags.launch(command, main, "./launch/run plan")
