"""Flag groups of ./launch/run serve."""

import dataclasses
from pathlib import Path

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.inference.config import HttpAddress, MachineFlags

DEFAULT_CONTEXT = 1024  # tokens of --context=0
ANSWER_SECONDS = 600
EXTRA = "install the extra: pip install 'jaxtrain[serve]', or JAXTRAIN_EXTRAS=serve ./launch/run serve"


@dataclasses.dataclass(frozen=True)
class ServedModelFlags(config.Group):
    # fmt: off
    model: str = config.arg("", "The run to serve, WORKDIR, WORKDIR@STEP, hf:DIR or hf:ORG/NAME; several, joined "
        "by commas, are served beside each other", remote=True)
    name: str = config.arg("", "Name of the model in requests, one for each of --model; empty: the name of its "
        "folder")
    template: str = config.arg("auto",
        "Chat template: plain, hh, chatml, llama2, llama3, gemma, zephyr, none (text is continued as it is), hf:NAME "
        "(one of the tokenizer's own that have a name), or a Jinja file. auto: the tokenizer's own, else none",
        remote=True)
    rows: int = config.arg(16, "Completions decoded at once", low=1)
    context: int = config.arg(0,
        "Most tokens of prompt and completion, for which every row has a KV cache. 0: the model's own, "
        f"{DEFAULT_CONTEXT} at most", low=0)
    chunk: int = config.arg(4, "Tokens decoded between two checks for waiting requests and disconnected clients", low=1)
    weights_dir: str = config.arg("",
        "Load other weights while it runs, as POST /update_weights_from_disk says, from folders below this one; empty: "
        "none are loaded")
    # fmt: on

    def weights_root(self) -> Path | None:
        """The folder of --weights_dir, None without it. Raises ConfigError where there is none."""
        root = Path(self.weights_dir).expanduser()
        if self.weights_dir and not root.is_dir():
            raise ConfigError(f"--weights_dir={self.weights_dir}: no such folder: make it, or name another")
        return root if self.weights_dir else None

    def context_of(self, model: str, model_context: int) -> int:
        """The most tokens of prompt and completion; `model_context` 0: the model has no limit. Raises ConfigError."""
        if model_context and self.context > model_context:
            raise ConfigError(f"--context={self.context}: the context of --model={model} is {model_context}")
        return self.context or min(model_context or DEFAULT_CONTEXT, DEFAULT_CONTEXT)


@dataclasses.dataclass(frozen=True)
class HttpFlags(HttpAddress):
    # fmt: off
    waiting: int = config.arg(64, "Completions that may wait for a row; more are answered 429", low=0)
    max_body_kb: int = config.arg(1024, "Largest body of a request, KiB; more is answered 413", low=1)
    answer_seconds: int = config.arg(ANSWER_SECONDS,
        "Most seconds from a request's last byte until the client has read its response; 0: no bound", low=0)
    drain: int = config.arg(30, "Seconds that requests have after SIGTERM; the process ends 10 s later at most", low=0)
    # fmt: on


@dataclasses.dataclass(frozen=True)
class CompletionStoreFlags(config.Group):
    # fmt: off
    store: str = config.arg("runs/store.sqlite",
        "SQLite file for the completions of requests with store=True, of all models; empty: no store")
    export: str = config.arg("", "Write the store's completions to this new .jsonl file, and serve nothing")
    # fmt: on

    def check(self):
        if self.export and not self.store:
            raise ConfigError("--export: name the store to export with --store")


@dataclasses.dataclass(frozen=True)
class Serve:
    served: ServedModelFlags = config.group(ServedModelFlags)
    http: HttpFlags = config.group(HttpFlags)
    kept: CompletionStoreFlags = config.group(CompletionStoreFlags)
    machine: MachineFlags = config.group(MachineFlags)
