"""Train a grid of flags, or random draws of them, over seeds, and rank the combinations by a metric."""

import shlex
from pathlib import Path

from jaxtrain import flags, signals
from jaxtrain.apps.sweep.config import Sweep
from jaxtrain.config import ConfigError, Failure


def stage_class(command: str) -> type:
    """The config class of a training command."""
    from experiments import distill, dpo, grpo, ppo, pretrain, reward, sft

    modules = {
        "distill": distill,
        "dpo": dpo,
        "grpo": grpo,
        "ppo": ppo,
        "pretrain": pretrain,
        "reward": reward,
        "sft": sft,
    }
    return getattr(modules[command], command.capitalize())


def main(cfg: Sweep) -> None:
    """Checks the flags of every run, trains those that are not finished, and writes the ranking."""
    from jaxtrain.apps.sweep import runner, trials

    sweep = cfg.sweep
    found = trials.trials(sweep)
    trials.check(sweep, found, stage_class(sweep.command))

    from jaxtrain.train import best_checkpoint

    try:
        best = best_checkpoint.parse(sweep.rank_by)
    except ConfigError as error:
        raise ConfigError(str(error).replace("--keep_best", "--rank_by", 1)) from error
    if best is None:
        raise ConfigError("--rank_by: name a metric, such as eval/loss")
    environments = runner.shares(sweep.jobs, runner.gpus())

    from jaxtrain.apps.sweep import report
    from jaxtrain.files import paths

    out = paths.absolute(Path(sweep.out))
    runs = runner.runs(sweep, found, out)
    todo = [run for run in runs if not runner.is_finished(run)]
    print(
        f"{len(found)} combinations, {len(runs)} runs, {len(runs) - len(todo)} of them finished before",
        flush=True,
    )

    def show(run: runner.SweepRun, status: int, seconds: float) -> None:
        end = (
            f"status {status}, {run.log}" if status else f"{best.metric} {report.value_of(run, best.metric)}"
        )
        print(f"{run.trial.name}, seed {run.seed}: {seconds / 60:.1f} min, {end}", flush=True)

    with signals.explaining(lambda: f"what is finished or saved is in {out}: the same command goes on"):
        failed = runner.train(todo, environments, show)
    ranking = report.result(runs, best.metric, best.mode, failed)
    report.write(ranking, out)
    print("\n".join(report.lines(ranking)))
    print(f"{out / report.REPORT} and {report.RESULT}")
    if failed:
        raise Failure(f"{len(failed)} of {len(runs)} runs failed; the same command tries them again")
    first = ranking["trials"][0]
    if first["mean"] is None:
        raise Failure(
            f"no run has the metric {best.metric}: name another with --rank_by, as its metrics.jsonl calls it"
        )
    chosen = [*sweep.common_flags(), *(f"--{name}={value}" for name, value in first["flags"].items())]
    print(f"best  ./launch/run {sweep.command} {shlex.join(chosen)}")


if __name__ == "__main__":
    from jaxtrain.files.processes import SAVED_WITHIN

    flags.launch(Sweep, main, "./launch/run sweep", grace=SAVED_WITHIN + signals.GRACE)
