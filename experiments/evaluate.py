"""Compare models on the same prompts: answers side by side, refusals, style, win rates, Elo, benchmarks."""

from pathlib import Path

from jaxtrain import flags
from jaxtrain.apps.evals.config import ComparedModels, Evaluate, require_writable
from jaxtrain.config import ConfigError


def main(cfg: Evaluate) -> None:
    """Checks the flags, evaluates the models and writes the report."""
    compared = cfg.compared
    if not compared.names():
        raise ConfigError("--models: name the models to compare, such as runs/sft,runs/ppo")
    cfg.endpoint.require(*compared.names(), cfg.judged.judge)
    judge = cfg.judged.judge if cfg.judged.judge not in ("auto", "gold", "correct") else ""
    cfg.machine.require(*compared.names(), judge)
    out = Path(compared.out).expanduser()
    require_writable(out, compared.overwrite)
    if not out.parent.is_dir() and compared.out != ComparedModels.out:
        raise ConfigError(f"--out={out}: the folder {out.parent} does not exist")
    if cfg.benchmarks.tasks:
        from jaxtrain.apps.evals import lm_eval

        lm_eval.check(cfg.benchmarks)

    # Imported here, so that a mistake in the flags is reported before jax is loaded.
    from jaxtrain.apps.evals import run
    from jaxtrain.train import watchdog

    with watchdog.watch(None, out.parent):
        run.run(cfg, out)


if __name__ == "__main__":
    flags.launch(Evaluate, main, "./launch/run evaluate")
