"""Compare models on the same prompts: answers side by side, refusals, style, win rates, Elo, benchmarks."""

from pathlib import Path

from jaxtrain import flags
from jaxtrain.apps.evals.config import ComparedModels, Evaluate
from jaxtrain.config import ConfigError


def main(cfg: Evaluate) -> None:
    """Checks the flags, opens the models, asks, measures, and writes the report."""
    # Imported here, so that a mistake in the flags is answered before jax is loaded.
    compared = cfg.compared
    if not compared.names():
        raise ConfigError("--models: name what is compared, such as runs/sft,runs/ppo")
    if len(set(compared.names())) < len(compared.names()):
        raise ConfigError(f"--models={compared.models}: one of them stands there twice")
    if compared.reference and compared.reference not in compared.names():
        raise ConfigError(f"--reference={compared.reference}: it is none of --models={compared.models}")
    out = Path(compared.out).expanduser()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out={out}: it is there already; name a new folder, or remove it")
    if not out.parent.is_dir() and compared.out != ComparedModels.out:
        raise ConfigError(f"--out={out}: there is no folder {out.parent} to make it in")
    if cfg.benchmarks.tasks:
        from jaxtrain.apps.evals import lm_eval

        lm_eval.check(cfg.benchmarks)

    from jaxtrain.apps.evals import run

    run.run(cfg, out)


if __name__ == "__main__":
    flags.launch(Evaluate, main, "./launch/run evaluate")
