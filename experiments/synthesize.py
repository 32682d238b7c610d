"""Make synthetic data with a run or an endpoint: questions and answers, reasoning, conversations, rephrasings."""

from pathlib import Path

from jaxtrain import flags
from jaxtrain.apps.synthesis.config import Synthesize
from jaxtrain.config import ConfigError
from jaxtrain.inference.config import MODEL_HELP


def main(cfg: Synthesize) -> None:
    """Checks the flags, opens the models, shows what it will cost, and makes the rows."""
    out = _checked(cfg)

    # Imported here, so that a mistake in the flags is answered before jax is loaded.
    from jaxtrain.apps.synthesis import run

    run.run(cfg, out)


def _checked(cfg: Synthesize) -> Path:
    wanted, models = cfg.wanted, cfg.models
    if not models.generator:
        raise ConfigError(f"--generator: name {MODEL_HELP}")
    if bool(wanted.topics) == bool(wanted.source):
        needs = "--source" if wanted.kind == "augment" else "--topics, --source: name one of them"
        raise ConfigError(f"{needs}: what questions are about, or data whose questions are taken")
    wanted.topic_list()
    if cfg.quality.answer_field and not wanted.source:
        raise ConfigError("--answer_field: acts only with --source")
    if models.per_ask and ((wanted.source and wanted.kind != "augment") or wanted.kind == "conversation"):
        raise ConfigError("--per_ask: acts where questions or rephrasings are asked for")
    if models.samples and wanted.kind in ("conversation", "augment"):
        raise ConfigError(f"--samples: acts only with --kind=qa or reasoning, and it is {wanted.kind}")
    if models.expert and wanted.kind == "augment":
        raise ConfigError("--expert: --kind=augment keeps the answers; leave it out")
    if models.samples > 1 and not models.answer_temperature:
        raise ConfigError("--samples: with --answer_temperature=0 they are all alike")
    out = Path(wanted.out).expanduser()
    if out.suffix != ".jsonl" or not out.parent.is_dir():
        raise ConfigError(f"--out={wanted.out}: write FOLDER/NAME.jsonl, in a folder that is there")
    if out.exists():
        raise ConfigError(f"--out={out}: it is there already; name a new file, or remove it")
    return out


if __name__ == "__main__":
    flags.launch(Synthesize, main, "./launch/run synthesize")
