"""Every stage on Tinytown, one command: pretraining, SFT, a reward model, PPO, DPO, and a student, with a report."""

import dataclasses

from jaxtrain import config, flags, signals


@dataclasses.dataclass(frozen=True)
class LifecycleRun(config.Group):
    # fmt: off
    workdir: str = config.arg("runs/lifecycle", "Folder of the runs, their logs, result.json and report.html; the same "
        "command resumes")
    seed: int = config.arg(0, "Seed of every stage", low=0)
    jobs: int = config.arg(0, "Stages that train at once where none needs another; 0: 2 on a CPU, 1 on an accelerator",
        low=0)
    cache_dir: str = config.arg(config.CACHE_DIR, "Where prepared data sets and compiled programs are kept")
    # fmt: on


@dataclasses.dataclass(frozen=True)
class Lifecycle:
    whole: LifecycleRun = config.group(LifecycleRun)


def main(cfg: Lifecycle) -> None:
    """Trains all stages, measures each model on the same prompts, and writes the report. Asserts nothing."""
    from jaxtrain.apps.lifecycle import plan, progress, report

    options = cfg.whole
    folder = plan.open_folder(options.workdir)
    steps = plan.steps()
    with signals.explaining(lambda: f"what is finished or saved is in {folder}: the same command goes on"):
        times = plan.train(
            steps,
            folder,
            progress.show_progress,
            jobs=options.jobs or plan.jobs(),
            seed=options.seed,
            cache_dir=options.cache_dir,
        )
    result = report.result(steps, folder, times)
    report.write(result, folder)
    report.print_result(result, folder)


if __name__ == "__main__":
    from jaxtrain.apps.lifecycle.plan import SAVED_WITHIN

    flags.launch(Lifecycle, main, "./launch/run lifecycle", grace=SAVED_WITHIN + signals.GRACE)
