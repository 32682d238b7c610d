"""Flag groups of ./launch/run constitutional."""

import dataclasses
import shlex
from pathlib import Path

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.inference.config import EndpointFlags, MachineFlags

SHIPPED = Path(__file__).parent / "constitutions"
RUN = "WORKDIR, WORKDIR@STEP, hf:DIR or hf:ORG/NAME"


@dataclasses.dataclass(frozen=True)
class ConstitutionalPrompts(config.Group):
    # fmt: off
    phase: str = config.arg("revise", "Critique and revise answers, compare pairs of answers, or all: revise, sft from "
        "the pretrained model, compare, reward, then ppo or dpo", choices=("revise", "compare", "all"), live=True)
    init_from: str = config.arg("", f"The run whose answers are revised or compared, {RUN}")
    data: str = config.arg("tinytown:redteam", "Prompts whose answers are revised or compared")
    prompt_count: int = config.arg(0, "Most of them; 0: all", low=0)
    constitution: str = config.arg("tinytown", "tinytown, general, a .json file, or the published prompts/ folder")
    workdir: str = config.arg("runs/constitutional", "Folder of all phases; the same command resumes them", live=True)
    temperature: float = config.arg(1.0, "Temperature of the answers", low=0)
    max_new: int = config.arg(64, "Most tokens of an answer; one that is cut there is left out", low=1)
    seed: int = config.arg(0, "Seed of sampling, and of the runs of --phase=all", low=0)
    # fmt: on

    def path(self) -> Path:
        """The constitution's file or folder."""
        named = SHIPPED / f"{self.constitution}.json"
        return named if named.is_file() else Path(self.constitution).expanduser()


@dataclasses.dataclass(frozen=True)
class CriticFlags(config.Group):
    # fmt: off
    critic: str = config.arg("", "What critiques, revises and compares: a run, or an endpoint "
        "(http://HOST:PORT/v1?model=NAME); empty: --init_from's own model")
    prompting: str = config.arg("auto", "base: continues pages, as in the paper; instruct: is prompted in a chat. "
        "auto: base for a run, instruct for an endpoint", choices=("auto", "instruct", "base"))
    critic_temperature: float = config.arg(0.5, "Temperature of critiques, revisions and reasoning", low=0)
    critic_max_new: int = config.arg(64, "Most tokens of one; what is cut there is left out", low=1)
    # fmt: on


@dataclasses.dataclass(frozen=True)
class RevisionFlags(config.Group):
    # fmt: off
    rounds: int = config.arg(4, "Critiques and revisions of an answer, each under a newly sampled principle", low=1,
        only=("phase", ("revise", "all")))
    critique: bool = config.arg(True, "Revise after a critique; false: directly",
        only=("phase", ("revise", "all")))
    keep: str = config.arg("all", "Revisions to train on: of all rounds, or each prompt's last",
        choices=("all", "last"),
        only=("phase", ("revise", "all")))
    grammar: bool = config.arg(True, "Of Tinytown's prompts a revision outside the world's grammar is unparsable",
        only=("phase", ("revise", "all")))
    helpful: str = config.arg("auto", "Prompts whose answers by --init_from are trained on unrevised. auto: Tinytown's "
        "harmless ones where --data is Tinytown's; -: none",
        only=("phase", ("revise", "all")))
    helpful_samples: int = config.arg(4, "Answers to each of them", low=1,
        only=("phase", ("revise", "all")))
    # fmt: on

    def helpful_of(self, data: str) -> str:
        """The source of helpful prompts beside --data; empty where there is none."""
        if self.helpful == "auto":
            return "tinytown:prompts?family=help&documents=4096" if data.startswith("tinytown:") else ""
        return "" if self.helpful == "-" else self.helpful


@dataclasses.dataclass(frozen=True)
class ComparisonFlags(config.Group):
    # fmt: off
    pairs: int = config.arg(1, "Pairs of answers to each prompt, each compared under a principle of its own", low=1,
        only=("phase", ("compare", "all")))
    cot: bool = config.arg(False, "Let the critic reason before it chooses",
        only=("phase", ("compare", "all")))
    cot_clamp: float = config.arg(0.4, "With --cot labels are clamped to this .. 1 - this", low=0,
        only=("phase", ("compare", "all")))
    allow_position_bias: bool = config.arg(False, "Continue with a critic that names one letter whatever stands there",
        live=True,
        only=("phase", ("compare", "all")))
    # fmt: on

    def check(self):
        if self.cot_clamp > 0.5:
            raise ConfigError(f"--cot_clamp={self.cot_clamp}: a probability of at most 0.5")
        if self.cot_clamp != type(self).cot_clamp and not self.cot:
            raise ConfigError("--cot_clamp: acts only with --cot")


@dataclasses.dataclass(frozen=True)
class ConstitutionalTraining(config.Group):
    # fmt: off
    pretrained: str = config.arg("", "What SL-CAI starts from; empty: the run that --init_from was trained from",
        live=True,
        only=("phase", ("all",)))
    human: str = config.arg("auto", "Human comparisons of helpfulness that the reward model, or dpo, learns beside the "
        "AI's of harmlessness. auto: 4,000 of Tinytown's where --data is Tinytown's; -: none", live=True,
        only=("phase", ("all",)))
    rl: str = config.arg("ppo", "What learns from the comparisons: ppo from the reward model, dpo without one",
        choices=("ppo", "dpo"), live=True,
        only=("phase", ("all",)))
    sft_flags: str = config.arg("--steps=400 --batch_size=16", "Further flags of ./launch/run sft", live=True,
        only=("phase", ("all",)))
    reward_flags: str = config.arg("--steps=150 --soft_labels", "Further flags of ./launch/run reward", live=True,
        only=("phase", ("all",)))
    rl_flags: str = config.arg("--steps=64", "Further flags of ./launch/run ppo or dpo, such as --data", live=True,
        only=("phase", ("all",)))
    # fmt: on

    def human_of(self, data: str) -> str:
        """The source of human comparisons beside --data; empty where there is none."""
        if self.human == "auto":
            return (
                "tinytown:preferences?family=help&documents=4000&balk=.15"
                if data.startswith("tinytown:")
                else ""
            )
        return "" if self.human == "-" else self.human

    def check(self):
        for name in ("sft_flags", "reward_flags", "rl_flags"):
            try:
                shlex.split(getattr(self, name))
            except ValueError as error:
                raise ConfigError(f"--{name}={getattr(self, name)}: {error}") from error


@dataclasses.dataclass(frozen=True)
class Constitutional:
    asked: ConstitutionalPrompts = config.group(ConstitutionalPrompts)
    critic: CriticFlags = config.group(CriticFlags)
    revising: RevisionFlags = config.group(RevisionFlags)
    comparing: ComparisonFlags = config.group(ComparisonFlags)
    training: ConstitutionalTraining = config.group(ConstitutionalTraining)
    reading: config.Reading = config.group(config.Reading)
    endpoint: EndpointFlags = config.group(EndpointFlags)
    machine: MachineFlags = config.group(MachineFlags)


@dataclasses.dataclass(frozen=True)
class RevisePhase:
    """The groups that decide the rows of the revise phase."""

    asked: ConstitutionalPrompts = config.group(ConstitutionalPrompts)
    critic: CriticFlags = config.group(CriticFlags)
    revising: RevisionFlags = config.group(RevisionFlags)
    reading: config.Reading = config.group(config.Reading)


@dataclasses.dataclass(frozen=True)
class ComparePhase:
    """The groups that decide the rows of the compare phase."""

    asked: ConstitutionalPrompts = config.group(ConstitutionalPrompts)
    critic: CriticFlags = config.group(CriticFlags)
    comparing: ComparisonFlags = config.group(ComparisonFlags)
    reading: config.Reading = config.group(config.Reading)
