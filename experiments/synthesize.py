"""Generate synthetic data with a run or an endpoint: questions, answers, reasoning, conversations, rephrasings."""

from pathlib import Path

from jaxtrain import flags
from jaxtrain.apps.synthesis.config import Synthesize, output_files
from jaxtrain.config import ConfigError
from jaxtrain.inference.config import MODEL_HELP


def main(cfg: Synthesize) -> None:
    """Checks the flags, opens the models, shows the estimated cost, and generates the rows."""
    out = _checked(cfg)

    # Imported here, so that a mistake in the flags is reported before jax is loaded.
    from jaxtrain.apps.synthesis import run
    from jaxtrain.train import watchdog

    with watchdog.watch(None, out.parent):
        run.run(cfg, out)


def _checked(cfg: Synthesize) -> Path:
    task, models = cfg.wanted, cfg.models
    if not models.generator:
        raise ConfigError(f"--generator: name {MODEL_HELP}")
    if bool(task.topics) == bool(task.source):
        needs = "--source" if task.kind == "augment" else "--topics, --source: name one of them"
        raise ConfigError(f"{needs}: topics of new questions, or data whose questions are taken")
    cfg.endpoint.require(models.generator, models.expert, cfg.quality.judge)
    judge = cfg.quality.judge if cfg.quality.judge not in ("gold", "correct") else ""
    cfg.machine.require(models.generator, models.expert, judge)
    task.topic_list()
    if cfg.quality.answer_field and not task.source:
        raise ConfigError("--answer_field: acts only with --source")
    if models.per_ask and ((task.source and task.kind != "augment") or task.kind == "conversation"):
        raise ConfigError("--per_ask: acts only where questions or rephrasings are generated")
    if models.samples and task.kind in ("conversation", "augment"):
        raise ConfigError(f"--samples: acts only with --kind=qa or reasoning, and it is {task.kind}")
    if models.expert and task.kind == "augment":
        raise ConfigError("--expert: --kind=augment keeps the answers; leave it out")
    if models.samples > 1 and not models.answer_temperature:
        raise ConfigError("--samples: with --answer_temperature=0 they are all the same")
    out = Path(task.out).expanduser()
    if out.suffix != ".jsonl" or not out.parent.is_dir():
        raise ConfigError(f"--out={task.out}: write FOLDER/NAME.jsonl, in an existing folder")
    if out.exists() and not output_files(out)["part"].exists():  # a kill at the end leaves both
        raise ConfigError(f"--out={out}: it exists already; name a new file, or remove it")
    return out


if __name__ == "__main__":
    flags.launch(Synthesize, main, "./launch/run synthesize")
