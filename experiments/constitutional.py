"""Constitutional AI: critiques and revisions, a model trained on them, AI comparisons, and RL from them."""

from pathlib import Path

from jaxtrain import flags, signals
from jaxtrain.apps.constitutional.config import RUN, Constitutional
from jaxtrain.config import ConfigError


def main(cfg: Constitutional) -> None:
    """Checks the flags and the constitution, then runs the phases that are not done."""
    from jaxtrain.apps.constitutional import principles

    if not cfg.asked.init_from:
        raise ConfigError(f"--init_from: name the run whose answers are revised or compared, {RUN}")
    constitution = principles.load(cfg.asked.path())
    if cfg.asked.phase != "compare":
        constitution.revising()
    if cfg.asked.phase != "revise":
        constitution.comparing()

    # Imported here, so that a mistake in the flags is reported before jax is loaded.
    from experiments import constitutional_pipeline
    from jaxtrain.apps.constitutional import compare_phase, revise_phase

    Path(cfg.asked.workdir).expanduser().mkdir(parents=True, exist_ok=True)
    with signals.explaining(lambda: f"what is finished is in {cfg.asked.workdir}: the same command goes on"):
        if cfg.asked.phase == "revise":
            revise_phase.run(cfg, constitution)
        elif cfg.asked.phase == "compare":
            compare_phase.run(cfg, constitution)
        else:
            constitutional_pipeline.run(cfg, constitution)


if __name__ == "__main__":
    flags.launch(Constitutional, main, "./launch/run constitutional")
