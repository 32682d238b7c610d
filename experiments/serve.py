"""Serve a run over OpenAI's HTTP API, and keep what it answers with store=True."""

import contextlib
import dataclasses
import os
import time
from pathlib import Path
from typing import Any

from jaxtrain import config, flags
from jaxtrain.config import ConfigError
from jaxtrain.inference.config import Machine

KEY = "JAXTRAIN_API_KEY"
LONGEST = 1024  # of --context, where nobody says it
EXTRA = "install the extra: pip install 'jaxtrain[serve]', or JAXTRAIN_EXTRAS=serve ./launch/run serve"


@dataclasses.dataclass(frozen=True)
class Served(config.Group):
    # fmt: off
    model: str = config.arg("", "The run to serve, WORKDIR, WORKDIR@STEP or hf:DIR")
    name: str = config.arg("", "What requests call the model; empty: the run's folder, without those it is in")
    template: str = config.arg("auto",
        "Chat template: plain, hh, chatml, llama2, llama3, gemma, none (text is continued as it is), or a Jinja file. "
        "auto: the tokenizer's own if it has one, else none")
    rows: int = config.arg(16, "Completions under way at once", low=1)
    context: int = config.arg(0,
        f"Most tokens of prompt and completion, for which every row has memory. 0: the model's own, {LONGEST} at most",
        low=0)
    chunk: int = config.arg(4, "Tokens drawn between two looks at who waits and who has left", low=1)
    # fmt: on


@dataclasses.dataclass(frozen=True)
class Address(config.Group):
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
class Http(Address):
    # fmt: off
    waiting: int = config.arg(64, "Completions that may wait for a row; more are answered 429", low=0)
    max_body_kb: int = config.arg(1024, "Largest request, KiB", low=1)
    drain: int = config.arg(30, "Seconds that requests have to end after SIGTERM", low=0)
    # fmt: on


@dataclasses.dataclass(frozen=True)
class Kept(config.Group):
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
    served: Served = config.group(Served)
    http: Http = config.group(Http)
    kept: Kept = config.group(Kept)
    machine: Machine = config.group(Machine)


def main(cfg: Serve) -> None:
    """Checks the flags, loads the run, compiles what requests need, and serves until a signal."""
    # Imported here, so that a mistake in the flags is answered before jax is loaded.
    if cfg.kept.export:
        export(Path(cfg.kept.store).expanduser(), Path(cfg.kept.export).expanduser())
        return
    if not cfg.served.model:
        raise ConfigError("--model: name the run to serve, such as runs/ppo, or hf:DIR")
    try:
        from jaxtrain.serve import run
        from jaxtrain.serve.store import Store
    except ImportError as error:
        raise ConfigError(f"serving needs the package {error.name}; {EXTRA}") from error

    from jaxtrain.data import chat
    from jaxtrain.stages import init_from
    from jaxtrain.train import host

    start = init_from.load(cfg.served.model)
    if not start.arch.causal:
        raise ConfigError(f"--model={cfg.served.model}: it fills masks, it does not continue text")
    template = cfg.served.template
    template = "none" if template == "auto" and not start.tokenizer.chat_template else template
    template = chat.load_template(template, start.tokenizer)
    context = _context(cfg, start.arch.max_len)
    with contextlib.ExitStack() as opened:
        sock = opened.enter_context(run.listen(cfg.http.host, cfg.http.port))
        store = Store(Path(cfg.kept.store).expanduser()) if cfg.kept.store else None
        if store:
            opened.callback(store.close)
        host.keep_freed_memory()
        house = open_house(cfg, start, template, context, store)

        from jaxtrain.serve import app

        run.run(
            app.app(house),
            sock,
            house.desk,
            cfg.http.drain,
            lambda: _say(cfg, house, template, context, sock),
        )


def _say(cfg: Serve, house: Any, template: Any, context: int, sock: Any) -> None:
    from jaxtrain.files import terminal

    key = (
        "every request needs the key"
        if house.limits.key
        else "none: programs on this machine alone are served"
    )
    waiting = f"{cfg.http.waiting} may wait; {context:,} tokens of prompt and completion"
    table = [
        ("template", template.name),
        *(("template", note) for note in template.notes),
        ("rows", f"{cfg.served.rows} at once, {waiting}"),
        ("API key", key),
        ("store", cfg.kept.store or "none: store=True is refused"),
    ]
    print("\n".join(terminal.lines(table)))
    print(f"serving {house.voice.name} at {url(sock)}/v1, until Ctrl-C or SIGTERM", flush=True)


def url(sock: Any) -> str:
    """Where a socket is listened to."""
    address, port = sock.getsockname()[:2]
    return f"http://{f'[{address}]' if ':' in address else address}:{port}"


def check_export(store: Path, out: Path) -> None:
    """Raises ConfigError where there is no store, or the file to write cannot be a new one."""
    if not store.is_file():
        raise ConfigError(f"--store={store}: no such file")
    if out.exists():
        raise ConfigError(f"--export={out}: it is there already; name a new file, or remove it")
    if out.suffix != ".jsonl" or not out.parent.is_dir():
        raise ConfigError(f"--export={out}: write FOLDER/NAME.jsonl, in a folder that is there")


def export(store: Path, out: Path) -> None:
    """Writes a store's completions as JSON lines."""
    from jaxtrain.serve.store import export

    check_export(store, out)
    print(f"{export(store, out):,} completions of {store} in {out}")


def _context(cfg: Serve, own: int) -> int:
    """Most tokens of prompt and completion."""
    asked = cfg.served.context
    if own and asked > own:
        raise ConfigError(f"--context={asked}: the context of --model={cfg.served.model} is {own}")
    return asked or min(own or LONGEST, LONGEST)


def open_house(cfg: Serve, start: Any, template: Any, context: int, store: Any) -> Any:
    """The model behind its decoding thread, every program compiled."""
    import jax

    from jaxtrain.files import cache
    from jaxtrain.generate import engine, sampler
    from jaxtrain.inference import chat as inference_chat
    from jaxtrain.models import transformer
    from jaxtrain.serve import asked, desk
    from jaxtrain.serve.answers import Voice
    from jaxtrain.serve.house import House, Limits
    from jaxtrain.serve.told import Told
    from jaxtrain.stages import weights
    from jaxtrain.train import parallel

    parallel.initialize(Path(cfg.machine.cache_dir).expanduser() / "compiled")
    if jax.process_count() > 1:
        raise ConfigError("serve takes one process; --mesh spreads the model over its devices")
    kind = "mesh" if jax.device_count() > 1 else "auto"
    plan = parallel.make(config.Run(mesh=cfg.machine.mesh, parallel=kind), 0, 1)
    if cfg.served.rows % plan.shards:
        raise ConfigError(
            f"--rows={cfg.served.rows}: use a multiple of the {plan.shards} devices they lie on"
        )
    how = transformer.execution(config.Model(dtype=cfg.machine.dtype), plan.shards, plan.local)
    model = transformer.build(start.arch, how)
    made = engine.engine(
        plan, model, end=template.end, width=context, slots=sampler.bucketed(context), tops=asked.TOPS,
        most=cfg.served.chunk,
    )  # fmt: skip
    params = made.ready(weights.starting(plan, start, model, 0), ())
    sampling = desk.Sampling(made, params, cfg.served.rows, cfg.served.chunk, context, start.arch.vocab)
    desk.warm(sampling)
    working = desk.Desk(sampling, cfg.http.waiting)
    mark = cache.digest(start.lineage["origin"], start.tokenizer.fingerprint, template.fingerprint)
    voice = Voice(_name(cfg), int(time.time()), f"fp_{mark}", template, inference_chat.decoder(template))
    limits = Limits(cfg.http.key(), cfg.http.max_body_kb * 1024)
    return House(voice, working, store, limits, Told(working, store))


def _name(cfg: Serve) -> str:
    return cfg.served.name or Path(cfg.served.model.removeprefix("hf:")).name


if __name__ == "__main__":
    flags.launch(Serve, main, "./launch/run serve")
