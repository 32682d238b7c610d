"""Make synthetic data with a run or an endpoint: questions and answers, reasoning, conversations, rephrasings."""

import dataclasses
from pathlib import Path

from jaxtrain import config, flags
from jaxtrain.config import ConfigError
from jaxtrain.inference.config import MODEL, Machine, Quality
from jaxtrain.inference.remote import Endpoint

ANYTHING = "-"  # of --topics


@dataclasses.dataclass(frozen=True)
class Wanted(config.Group):
    # fmt: off
    kind: str = config.arg("qa", "Questions and answers, reasoning whose answer is checked, conversations, or "
        "rephrasings of --source", choices=("qa", "reasoning", "conversation", "augment"))
    topics: str = config.arg("", "Topics joined by commas, or FILE.txt with one a line. A base model goes on with the "
        "topic as the first words of a question; -: any question")
    source: str = config.arg("", "Data whose questions are taken instead of new ones, such as tinytown:prompts:train")
    source_count: int = config.arg(0, "Most conversations taken from --source; 0: all", low=0)
    examples: str = config.arg("", "Data whose questions are shown as examples to what asks for new ones")
    shots: int = config.arg(3, "Examples shown with an ask", low=1)
    out: str = config.arg("", "New .jsonl file for the rows; what was rejected is in NAME.rejected.jsonl beside it")
    count: int = config.arg(100, "Rows wanted", low=1)
    tries: int = config.arg(4, "Most rows made and rejected or kept, as a multiple of --count, before giving up", low=1)
    # fmt: on

    def check(self):
        if self.kind == "augment" and self.topics:
            raise ConfigError("--topics: --kind=augment rephrases --source; leave it out")
        if self.source_count and not self.source:
            raise ConfigError("--source_count: acts only with --source")
        if self.examples and (self.source or self.kind == "conversation"):
            raise ConfigError(
                "--examples: they are shown where new questions of qa or reasoning are asked for"
            )
        if self.shots != type(self).shots and not self.examples:
            raise ConfigError("--shots: acts only with --examples")

    def topic_list(self) -> tuple[str, ...]:
        """The topics. Raises ConfigError where there are none in the file."""
        if self.topics.endswith(".txt"):
            path = Path(self.topics).expanduser()
            if not path.is_file():
                raise ConfigError(f"--topics={self.topics}: no such file")
            found = path.read_text(encoding="utf-8").splitlines()
        else:
            found = self.topics.split(",")
        found = [one.strip() for one in found if one.strip()]
        if self.topics and not found:
            raise ConfigError(f"--topics={self.topics}: there is no topic in it")
        return tuple("" if one == ANYTHING else one for one in found)


@dataclasses.dataclass(frozen=True)
class Models(config.Group):
    # fmt: off
    generator: str = config.arg("", f"What asks and rephrases: {MODEL}")
    expert: str = config.arg("", "What answers, named alike; empty: the generator")
    prompting: str = config.arg("auto", "Ask by instructions, or let base models continue pages of Human: and AI: "
        "lines. auto: base where the generator is a run whose tokenizer has no chat template",
        choices=("auto", "instruct", "base"))
    per_ask: int = config.arg(0, "Questions or rephrasings of one ask. 0: 10 with instructions, 1 of a base model",
        low=0)
    samples: int = config.arg(0, "Answers to a question; of reasoning the samples that vote. 0: 5 for reasoning, "
        "else 1", low=0)
    turns: int = config.arg(2, "Questions of a conversation", low=1, only=("kind", ("conversation",)))
    temperature: float = config.arg(1.0, "Temperature of the generator", low=0)
    answer_temperature: float = config.arg(0.7, "Temperature of the expert", low=0)
    max_new: int = config.arg(256, "Most tokens of a reply; an answer that is cut there is rejected", low=1)
    seed: int = config.arg(0, "Seed; with runs the same command gives the same rows", low=0)
    dry_run: bool = config.arg(False, "Show the first request, and what all would cost, and stop", live=True)
    # fmt: on


@dataclasses.dataclass(frozen=True)
class Synthesize:
    wanted: Wanted = config.group(Wanted)
    models: Models = config.group(Models)
    quality: Quality = config.group(Quality)
    endpoint: Endpoint = config.group(Endpoint)
    machine: Machine = config.group(Machine)


def main(cfg: Synthesize) -> None:
    """Checks the flags, opens the models, shows what it will cost, and makes the rows."""
    out = _checked(cfg)

    # Imported here, so that a mistake in the flags is answered before jax is loaded.
    from experiments import making

    making.run(cfg, out)


def _checked(cfg: Synthesize) -> Path:
    wanted, models = cfg.wanted, cfg.models
    if not models.generator:
        raise ConfigError(f"--generator: name {MODEL}")
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
