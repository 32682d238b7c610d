"""Every stage on Tinytown, one command: pretraining, SFT, a reward model, PPO, DPO, and a student, with a report."""

import dataclasses
import functools
import shlex

from jaxtrain import config, flags, signals


@dataclasses.dataclass(frozen=True)
class LifecycleRun(config.Group):
    # fmt: off
    workdir: str = config.arg("runs/lifecycle", "Folder of the runs, their logs, result.json and report.html; the same "
        "command resumes")
    seed: str = config.arg("", "Seed of every stage; empty: 0", only=("seeds", ("",)))
    seeds: str = config.arg("", "Train all stages on several seeds, one after the other, and report mean, least and "
        "most: how many, 3, or which, 0,1,2")
    jitter: float = config.arg(0.0, "--jitter of the stages that draw initial parameters: what another machine's "
        "rounding does", low=0)
    jobs: int = config.arg(0, "Stages that train at once where none needs another; 0: 2 on a CPU, 1 on an accelerator",
        low=0)
    cache_dir: str = config.arg(config.CACHE_DIR, "Where prepared data sets and compiled programs are kept")
    # fmt: on

    def check(self):
        from jaxtrain.apps.lifecycle import seeds

        config.check_jitter(self.jitter)
        seeds.parse(self.seed, self.seeds)


@dataclasses.dataclass(frozen=True)
class Lifecycle:
    whole: LifecycleRun = config.group(LifecycleRun)


def main(cfg: Lifecycle) -> None:
    """Trains all stages, measures each model on the same prompts, and writes the report. Asserts nothing."""
    from pathlib import Path

    from jaxtrain.apps.lifecycle import bands, plan, progress, report, seeds
    from jaxtrain.files import accelerators, paths
    from jaxtrain.train import run_list

    options, several = cfg.whole, bool(cfg.whole.seeds)
    steps, root = plan.steps(), paths.absolute(Path(options.workdir))
    numbers = seeds.parse(options.seed, options.seeds)
    places = seeds.folders(root, numbers, several, steps, options.jitter)
    results = {}
    with signals.explaining(lambda: f"what is finished or saved is in {root}: the same command goes on"):
        for i, (seed, folder) in enumerate(places.items(), 1):
            heading = f"seed {seed}, {i} of {len(places)}" if several else ""
            times = plan.train(
                steps,
                folder,
                functools.partial(progress.show_progress, heading=heading),
                jobs=options.jobs or accelerators.jobs(),
                seed=seed,
                cache_dir=options.cache_dir,
                jitter=options.jitter,
            )
            results[seed] = report.result(steps, folder, times)
            report.write(results[seed], folder)
        result = results[numbers[0]]
        if several:
            result = bands.combine(results)
            report.write(result, root)
    report.print_result(result, root)
    print(
        f"next  ./launch/run sample --init_from={shlex.quote(run_list.short_path(places[numbers[0]] / 'ppo'))}"
    )


if __name__ == "__main__":
    from jaxtrain.files.processes import SAVED_WITHIN

    flags.launch(Lifecycle, main, "./launch/run lifecycle", grace=SAVED_WITHIN + signals.GRACE)
