"""The flags of ./launch/run filter_data."""

import dataclasses

from jaxtrain import config
from jaxtrain.apps.filters.classifier import ClassifierFilter
from jaxtrain.apps.filters.decontaminate import Decontaminate
from jaxtrain.apps.filters.gibberish import GibberishFilter
from jaxtrain.apps.filters.harm import HarmFilter
from jaxtrain.apps.filters.heuristics import HeuristicsFilter
from jaxtrain.apps.filters.language import LanguageFilter
from jaxtrain.apps.filters.near_duplicates import NearDuplicates
from jaxtrain.apps.filters.perplexity import PerplexityFilter
from jaxtrain.apps.filters.pii import PiiFilter
from jaxtrain.apps.filters.repetition import RepetitionFilter
from jaxtrain.apps.filters.spam import SpamFilter
from jaxtrain.config import ConfigError, arg

_SWITCH = ("drop", "off")


@dataclasses.dataclass(frozen=True)
class FilterSource(config.Group):
    # fmt: off
    data: str = arg("",
        "Data to filter: tinytown:CONFIG, tfds:NAME[:SPLIT], hf:NAME[:SPLIT], jsonl:GLOB, filtered:DIR, several "
        "with commas; of the same document the first is kept")
    text_field: str = arg("text", "Field of a record that holds the text, where it is plain text")
    max_chars: int = arg(5_000_000, "Most characters of a record's texts; a longer record is rejected", low=1)
    judged: str = arg("learnt",
        "Texts that quality, harm and spam are judged by: those that a model is trained on (prompts and rejected "
        "answers are not), or all. Personal data is searched in all, and duplicates are compared whole",
        choices=("learnt", "all"))
    cache_dir: str = arg(config.CACHE_DIR, "Folder of prepared data sets", live=True)
    # fmt: on

    def check(self):
        if "*" in self.data and not self.data.partition("*")[0].startswith("jsonl:"):
            raise ConfigError(f"--data={self.data}: every document is read once: leave out the weights")


@dataclasses.dataclass(frozen=True)
class FilterSteps(config.Group):
    # fmt: off
    heuristics: str = arg("drop", "The rules of Gopher, C4 and FineWeb", choices=_SWITCH)
    repetition: str = arg("drop", "Gopher's rules about repetition", choices=_SWITCH)
    junk: str = arg("drop", "Shuffled letters, control characters, menus and notices", choices=_SWITCH)
    harm: str = arg("drop", "Harmful content", choices=_SWITCH)
    spam: str = arg("drop", "Spam and advertisements", choices=_SWITCH)
    exact: str = arg("drop", "Exact duplicates, but for case, white space and Unicode's variants; the first is kept",
        choices=_SWITCH)
    # fmt: on


@dataclasses.dataclass(frozen=True)
class FilterWork(config.Group):
    # fmt: off
    out: str = arg("", "New folder for the result; the same command resumes an unfinished one")
    executor: str = arg("local",
        "Where the steps run: processes of this machine, or Slurm jobs or Ray tasks, by datatrove's executors",
        choices=("local", "slurm", "ray"), live=True)
    workers: int = arg(0, "Processes, Slurm tasks or Ray tasks at once; 0: one a core", low=0, live=True)
    shard: int = arg(8_192, "Documents of a shard, the unit of resuming", low=1)
    document_seconds: float = arg(30.0,
        "Most seconds of CPU time of the steps on a document; one that takes longer is rejected as too_slow", low=0.01)
    slurm_partition: str = arg("", "Partition of the Slurm jobs", only=("executor", ("slurm",)), live=True)
    slurm_time: str = arg("24:00:00", "Time limit of a Slurm job", only=("executor", ("slurm",)), live=True)
    slurm_mem_gb: int = arg(4, "Gigabytes of memory of a Slurm task", low=1, only=("executor", ("slurm",)),
        live=True)
    # fmt: on

    def check(self):
        if self.executor == "slurm" and not self.slurm_partition:
            raise ConfigError("--slurm_partition: name the partition that the jobs are for")


@dataclasses.dataclass(frozen=True)
class Filter:
    source: FilterSource = config.group(FilterSource)
    reading: config.Reading = config.group(config.Reading, on_bad_record="skip")
    work: FilterWork = config.group(FilterWork)
    steps: FilterSteps = config.group(FilterSteps)
    language: LanguageFilter = config.group(LanguageFilter)
    heuristics: HeuristicsFilter = config.group(HeuristicsFilter)
    repetition: RepetitionFilter = config.group(RepetitionFilter)
    junk: GibberishFilter = config.group(GibberishFilter)
    classifier: ClassifierFilter = config.group(ClassifierFilter)
    perplexity: PerplexityFilter = config.group(PerplexityFilter)
    pii: PiiFilter = config.group(PiiFilter)
    harm: HarmFilter = config.group(HarmFilter)
    spam: SpamFilter = config.group(SpamFilter)
    decontaminate: Decontaminate = config.group(Decontaminate)
    near: NearDuplicates = config.group(NearDuplicates)

    def dialogs_config(self, data: str = "") -> config.Dialogs:
        """The group that the data package reads: --data, or `data`."""
        source = self.source
        return config.dialogs_of(
            self.reading, source.cache_dir, data=data or source.data, text_field=source.text_field
        )
