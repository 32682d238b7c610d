"""Flag groups of ./launch/run synthesize."""

import dataclasses
from pathlib import Path

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.inference.config import MODEL_HELP, EndpointFlags, MachineFlags, QualityFlags

ANYTHING = "-"  # of --topics


@dataclasses.dataclass(frozen=True)
class SynthesisTask(config.Group):
    # fmt: off
    kind: str = config.arg("qa", "Questions and answers, reasoning whose answer is checked, conversations, or "
        "rephrasings of --source", choices=("qa", "reasoning", "conversation", "augment"))
    topics: str = config.arg("", "Topics joined by commas, or FILE.txt with one a line. For a base model a "
        "topic is the first words of a question; -: any question")
    source: str = config.arg("", "Data whose questions are taken instead of new ones, such as tinytown:prompts:train")
    source_count: int = config.arg(0, "Most conversations taken from --source; 0: all", low=0)
    examples: str = config.arg("", "Data whose questions are few-shot examples in requests for new ones")
    shots: int = config.arg(3, "Few-shot examples in a request", low=1)
    out: str = config.arg("", "New .jsonl file for the rows; what was rejected is in NAME.rejected.jsonl beside it")
    count: int = config.arg(100, "Rows wanted", low=1)
    tries: int = config.arg(4, "Most rows generated before giving up, accepted or rejected, as a multiple of --count",
        low=1)
    # fmt: on

    def check(self):
        if self.kind == "augment" and self.topics:
            raise ConfigError("--topics: --kind=augment rephrases --source; leave it out")
        if self.source_count and not self.source:
            raise ConfigError("--source_count: acts only with --source")
        if self.examples and (self.source or self.kind == "conversation"):
            raise ConfigError("--examples: they act only with --topics, and --kind=qa or reasoning")
        if self.shots != type(self).shots and not self.examples:
            raise ConfigError("--shots: acts only with --examples")

    def topic_list(self) -> tuple[str, ...]:
        """The topics. Raises ConfigError where there are none in the file."""
        if self.topics.endswith(".txt"):
            path = Path(self.topics).expanduser()
            if not path.is_file():
                raise ConfigError(f"--topics={self.topics}: no such file")
            topics = path.read_text(encoding="utf-8").splitlines()
        else:
            topics = self.topics.split(",")
        topics = [one.strip() for one in topics if one.strip()]
        if self.topics and not topics:
            raise ConfigError(f"--topics={self.topics}: there is no topic in it")
        return tuple("" if one == ANYTHING else one for one in topics)


@dataclasses.dataclass(frozen=True)
class SynthesisModels(config.Group):
    # fmt: off
    generator: str = config.arg("", f"What writes questions and rephrases: {MODEL_HELP}")
    expert: str = config.arg("", "What answers, named alike; empty: the generator")
    prompting: str = config.arg("auto", "instruct: by instructions; base: base models continue pages of Human: and "
        "AI: lines. auto: base where the generator is a run whose tokenizer has no chat template",
        choices=("auto", "instruct", "base"))
    per_ask: int = config.arg(0, "Questions or rephrasings of one request. 0: 10 with instructions, 1 of a base model",
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
    wanted: SynthesisTask = config.group(SynthesisTask)
    models: SynthesisModels = config.group(SynthesisModels)
    quality: QualityFlags = config.group(QualityFlags)
    reading: config.Reading = config.group(config.Reading)
    endpoint: EndpointFlags = config.group(EndpointFlags)
    machine: MachineFlags = config.group(MachineFlags)


def output_files(out: Path) -> dict[str, Path]:
    """The files beside a data set: rejected rows, the report, and the journal while it is generated."""
    names = {"rejected": "rejected.jsonl", "report": "report.json", "part": "jsonl.part"}
    return {name: out.with_name(f"{out.stem}.{ending}") for name, ending in names.items()}
