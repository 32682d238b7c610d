"""Constitutional AI: critiques and revisions, a model trained on them, AI comparisons, and RL from them."""

import shlex
from pathlib import Path

from jaxtrain import flags, signals
from jaxtrain.apps.constitutional.config import RUN, Constitutional
from jaxtrain.config import ConfigError
from jaxtrain.data import source_spec


def main(cfg: Constitutional) -> None:
    """Checks the flags and the constitution, then runs the phases that are not done."""
    from jaxtrain.apps.constitutional import principles

    if not cfg.asked.init_from:
        raise ConfigError(f"--init_from: name the run whose answers are revised or compared, {RUN}")
    cfg.endpoint.require(cfg.asked.init_from, cfg.critic.critic)
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
            made = revise_phase.run(cfg, constitution)
        elif cfg.asked.phase == "compare":
            made = compare_phase.run(cfg, constitution)
        else:
            made = constitutional_pipeline.run(cfg, constitution)
    print(f"next  ./launch/run {shlex.join(_next(cfg, made))}")


def _next(cfg: Constitutional, made: Path) -> list[str]:
    """The command that usually follows, on what a phase made: a data set, or the last model."""
    asked, data = cfg.asked, f"--data={source_spec.of_path('jsonl', made)}"
    if asked.phase == "revise":
        start = cfg.critic.critic or asked.init_from
        return ["sft", f"--init_from={start}", data, f"--workdir={Path(asked.workdir) / 'sl'}"]
    if asked.phase == "compare":
        return [
            "reward",
            f"--init_from={asked.init_from}",
            data,
            f"--workdir={Path(asked.workdir) / 'reward'}",
        ]
    return ["evaluate", f"--models={asked.init_from},{made.parent / 'sl'},{made}"]


if __name__ == "__main__":
    flags.launch(Constitutional, main, "./launch/run constitutional")
