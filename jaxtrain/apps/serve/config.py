"""Flag groups of ./launch/run serve."""

import dataclasses
import os

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.inference.config import MachineFlags

KEY = "JAXTRAIN_API_KEY"
DEFAULT_CONTEXT = 1024  # of --context, where nobody says it
EXTRA = "install the extra: pip install 'jaxtrain[serve]', or JAXTRAIN_EXTRAS=serve ./launch/run serve"


@dataclasses.dataclass(frozen=True)
class ServedModelFlags(config.Group):
    # fmt: off
    model: str = config.arg("", "The run to serve, WORKDIR, WORKDIR@STEP or hf:DIR")
    name: str = config.arg("", "What requests call the model; empty: the run's folder, without those it is in")
    template: str = config.arg("auto",
        "Chat template: plain, hh, chatml, llama2, llama3, gemma, none (text is continued as it is), or a Jinja file. "
        "auto: the tokenizer's own if it has one, else none")
    rows: int = config.arg(16, "Completions under way at once", low=1)
    context: int = config.arg(0,
        "Most tokens of prompt and completion, for which every row has memory. 0: the model's own, "
        f"{DEFAULT_CONTEXT} at most", low=0)
    chunk: int = config.arg(4, "Tokens drawn between two looks at who waits and who has left", low=1)
    # fmt: on


@dataclasses.dataclass(frozen=True)
class HttpAddress(config.Group):
    # fmt: off
    host: str = config.arg("127.0.0.1", "Address to listen on; any but this machine's own needs an API key", live=True)
    port: int = config.arg(8000, "Port to listen on; 0: any free one", low=0, live=True)
    api_key: str = config.arg("", f"Key that requests must have; better in the environment, {KEY}", live=True)
    # fmt: on

    def check(self):
        if self.port > 65535:
            raise ConfigError(f"--port={self.port}: the highest is 65535")
        if not self.key() and self.host not in ("127.0.0.1", "localhost", "::1"):
            raise ConfigError(
                f"--host={self.host}: others can reach it, so it needs a key: set {KEY}, or --api_key"
            )

    def key(self) -> str:
        """The key of the flag or the environment."""
        return self.api_key or os.environ.get(KEY, "")


@dataclasses.dataclass(frozen=True)
class HttpFlags(HttpAddress):
    # fmt: off
    waiting: int = config.arg(64, "Completions that may wait for a row; more are answered 429", low=0)
    max_body_kb: int = config.arg(1024, "Largest request, KiB", low=1)
    drain: int = config.arg(30, "Seconds that requests have to end after SIGTERM", low=0)
    # fmt: on


@dataclasses.dataclass(frozen=True)
class CompletionStoreFlags(config.Group):
    # fmt: off
    store: str = config.arg("runs/store.sqlite",
        "SQLite file for what requests with store=True are answered, of all models; empty: no store")
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
