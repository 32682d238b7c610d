"""Flag groups of ./launch/run collect_preferences."""

import dataclasses

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.inference.config import EndpointFlags, HttpAddress, MachineFlags

EXTRA = (
    "install the extra: pip install 'jaxtrain[serve]', or JAXTRAIN_EXTRAS=serve ./launch/run collect_preferences; "
    "or annotate with --ui=terminal"
)
MAX_RESPONSES = 9  # to a prompt: as many as there are digit keys


@dataclasses.dataclass(frozen=True)
class AnnotationPrompts(config.Group):
    # fmt: off
    model: str = config.arg("", "The model whose responses are compared: a run (WORKDIR, WORKDIR@STEP, hf:DIR) or an "
        "endpoint (http://HOST:PORT/v1?model=NAME); several, joined by commas, give a response each")
    data: str = config.arg("tinytown:prompts", "Data whose distinct prompts are used; of a source without a split "
        "what training reads")
    prompt_count: int = config.arg(100, "Most prompts; 0: all", low=0)
    responses: int = config.arg(2, "Responses of one model to a prompt; above 2 they are ranked", low=2)
    second: float = config.arg(0.2, "Share of the prompts that a second annotator answers too", low=0)
    system: str = config.arg("", "System message put before conversations that have none")
    # fmt: on

    def check(self):
        if self.second > 1:
            raise ConfigError(f"--second={self.second}: a share, at most 1")
        if self.responses > MAX_RESPONSES or len(self.models()) > MAX_RESPONSES:
            raise ConfigError(
                f"--responses={self.responses}: at most {MAX_RESPONSES}, as many as there are keys"
            )
        if len(self.models()) > 1 and self.responses != type(self).responses:
            raise ConfigError("--responses: each of several models gives one; leave it out")

    def models(self) -> list[str]:
        """The models of --model."""
        return config.listed(self.model)


@dataclasses.dataclass(frozen=True)
class ResponseSampling(config.Sampling):
    # fmt: off
    seed: int = config.arg(0, "Seed of the responses, and of the choice of prompts for a second annotator", low=0)
    tries: int = config.arg(4, "Times that one model's responses are sampled until enough of them end and differ",
        low=1)
    # fmt: on


@dataclasses.dataclass(frozen=True)
class AnnotationPage(HttpAddress):
    # fmt: off
    ui: str = config.arg("page", "Annotate on a page, or in this terminal", choices=("page", "terminal"), live=True)
    annotator: str = config.arg("", "Name of the annotator in the terminal; empty: the name of the login", live=True,
        only=("ui", ("terminal",)))
    browser: bool = config.arg(True, "Open the page in a browser, where there is one", live=True,
        only=("ui", ("page",)))
    reason: str = config.arg("optional", "Whether an answer needs a reason", live=True,
        choices=("optional", "required"))
    lease: float = config.arg(15.0, "Minutes for which a prompt that an annotator looks at is not given to others",
        low=0, live=True)
    # fmt: on


@dataclasses.dataclass(frozen=True)
class AnnotationStore(config.Group):
    # fmt: off
    store: str = config.arg("runs/preferences.sqlite", "SQLite file for prompts, responses and votes; the same "
        "command resumes it", live=True)
    export: str = config.arg("", "Write the store's votes to this new .jsonl file, and annotate nothing", live=True)
    # fmt: on

    def check(self):
        if not self.store:
            raise ConfigError("--store: name the SQLite file for the votes")


@dataclasses.dataclass(frozen=True)
class Collect:
    asked: AnnotationPrompts = config.group(AnnotationPrompts)
    drawing: ResponseSampling = config.group(ResponseSampling)
    page: AnnotationPage = config.group(AnnotationPage)
    kept: AnnotationStore = config.group(AnnotationStore)
    reading: config.Reading = config.group(config.Reading)
    endpoint: EndpointFlags = config.group(EndpointFlags)
    machine: MachineFlags = config.group(MachineFlags)
