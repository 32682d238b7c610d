"""Flag groups of ./launch/run sweep."""

import dataclasses
import shlex

from jaxtrain import config
from jaxtrain.config import ConfigError

STAGES = ("pretrain", "sft", "reward", "dpo", "ppo", "grpo", "distill")


@dataclasses.dataclass(frozen=True)
class SweepFlags(config.Group):
    # fmt: off
    command: str = config.arg("pretrain", "The training command", choices=STAGES)
    grid: str = config.arg("",
        "Its flags and their values, lr=1e-4|3e-4;batch_size=8|16; for --trials a range, too: dropout=0..0.3, "
        "lr=log:1e-5..1e-2",
        remote=True)
    common: str = config.arg("", "Flags of every run, as on a command line: --init_from=runs/pretrain --steps=300",
        remote=True)
    trials: int = config.arg(0, "Combinations drawn at random; 0: all combinations, each once", low=0)
    trials_seed: int = config.arg(0, "Seed of these draws", low=0)
    repeats: int = config.arg(1, "Runs of each combination, with --seed=0, 1, ...", low=1)
    rank_by: str = config.arg("eval/loss",
        "METRIC[:max|min], a metric as metrics.jsonl calls it, by whose last value combinations are ranked")
    out: str = config.arg("runs/sweep", "Folder of the runs, result.json and report.html; the same command resumes")
    jobs: int = config.arg(0, "Runs at once; 0: one for each GPU, else 1. GPUs are divided among them", low=0)
    # fmt: on

    def check(self):
        if self.trials_seed and not self.trials:
            raise ConfigError("--trials_seed: acts only with --trials")
        self.common_flags()

    def common_flags(self) -> list[str]:
        """The parts of --common."""
        try:
            return shlex.split(self.common)
        except ValueError as error:
            raise ConfigError(f"--common={self.common}: {error}; quote it as for a shell") from error


@dataclasses.dataclass(frozen=True)
class Sweep:
    sweep: SweepFlags = config.group(SweepFlags)
