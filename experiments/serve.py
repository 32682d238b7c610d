"""Serve a run over OpenAI's HTTP API, and keep what it answers with store=True."""

import contextlib
import time
from pathlib import Path
from typing import Any

from jaxtrain import config, flags
from jaxtrain.apps.serve.config import DEFAULT_CONTEXT, EXTRA, Serve
from jaxtrain.config import ConfigError
from jaxtrain.files.atomic import check_export


def main(cfg: Serve) -> None:
    """Checks the flags, loads the run, compiles what requests need, and serves until a signal."""
    # Imported here, so that a mistake in the flags is answered before jax is loaded.
    if cfg.kept.export:
        export(Path(cfg.kept.store).expanduser(), Path(cfg.kept.export).expanduser())
        return
    if not cfg.served.model:
        raise ConfigError("--model: name the run to serve, such as runs/ppo, or hf:DIR")
    try:
        from jaxtrain.apps.serve import http
        from jaxtrain.apps.serve.store import CompletionStore
    except ImportError as error:
        raise ConfigError(f"serving needs the package {error.name}; {EXTRA}") from error

    from jaxtrain.data import chat
    from jaxtrain.stages import init_from
    from jaxtrain.train import host

    start = init_from.load_run(cfg.served.model)
    if not start.arch.causal:
        raise ConfigError(f"--model={cfg.served.model}: it fills masks, it does not continue text")
    template = cfg.served.template
    template = "none" if template == "auto" and not start.tokenizer.chat_template else template
    template = chat.load_template(template, start.tokenizer)
    context = _context(cfg, start.arch.max_len)
    with contextlib.ExitStack() as opened:
        sock = opened.enter_context(http.listen(cfg.http.host, cfg.http.port))
        store = CompletionStore(Path(cfg.kept.store).expanduser()) if cfg.kept.store else None
        if store:
            opened.callback(store.close)
        host.keep_freed_memory()
        house = open_server(cfg, start, template, context, store)

        from jaxtrain.apps.serve import app

        http.run(
            app.app(house),
            sock,
            house.desk,
            cfg.http.drain,
            lambda: _say(cfg, house, template, context, http.url(sock)),
        )


def _say(cfg: Serve, house: Any, template: Any, context: int, url: str) -> None:
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
    print(f"serving {house.voice.name} at {url}/v1, until Ctrl-C or SIGTERM", flush=True)


def export(store: Path, out: Path) -> None:
    """Writes a store's completions as JSON lines."""
    from jaxtrain.apps.serve.store import export

    check_export(store, out)
    print(f"{export(store, out):,} completions of {store} in {out}")


def _context(cfg: Serve, own: int) -> int:
    """Most tokens of prompt and completion."""
    asked = cfg.served.context
    if own and asked > own:
        raise ConfigError(f"--context={asked}: the context of --model={cfg.served.model} is {own}")
    return asked or min(own or DEFAULT_CONTEXT, DEFAULT_CONTEXT)


def open_server(cfg: Serve, start: Any, template: Any, context: int, store: Any) -> Any:
    """The model behind its decoding thread, every program compiled."""
    import jax

    from jaxtrain.apps.serve import request_params, scheduler
    from jaxtrain.apps.serve.metrics import Metrics
    from jaxtrain.apps.serve.responses import ServedModel
    from jaxtrain.apps.serve.server import Server, ServerLimits
    from jaxtrain.files import cache
    from jaxtrain.generate import engine, sampler
    from jaxtrain.inference import chat as inference_chat
    from jaxtrain.models import transformer
    from jaxtrain.stages import weights
    from jaxtrain.train import parallel

    parallel.initialize(Path(cfg.machine.cache_dir).expanduser() / "compiled")
    if jax.process_count() > 1:
        raise ConfigError("serve takes one process; --mesh spreads the model over its devices")
    kind = "mesh" if jax.device_count() > 1 else "auto"
    plan = parallel.make(config.Run(mesh=cfg.machine.mesh, parallel=kind))
    if cfg.served.rows % plan.shards:
        raise ConfigError(
            f"--rows={cfg.served.rows}: use a multiple of the {plan.shards} devices they lie on"
        )
    how = transformer.execution(config.Model(dtype=cfg.machine.dtype), plan.shards, plan.local)
    model = transformer.build(start.arch, how)
    made = engine.engine(
        plan, model, end=template.end, width=context, slots=sampler.bucketed(context), tops=request_params.MAX_TOP_LOGPROBS,
        most=cfg.served.chunk,
    )  # fmt: skip
    params = made.ready(weights.load_params(plan, start, model, 0), ())
    sampling = scheduler.ModelRunner(
        made, params, cfg.served.rows, cfg.served.chunk, context, start.arch.vocab
    )
    scheduler.warm_up(sampling)
    working = scheduler.Scheduler(sampling, cfg.http.waiting)
    mark = cache.digest(start.lineage["origin"], start.tokenizer.fingerprint, template.fingerprint)
    voice = ServedModel(
        _name(cfg), int(time.time()), f"fp_{mark}", template, inference_chat.decoder(template)
    )
    limits = ServerLimits(cfg.http.key(), cfg.http.max_body_kb * 1024)
    return Server(voice, working, store, limits, Metrics(working, store))


def _name(cfg: Serve) -> str:
    return cfg.served.name or Path(cfg.served.model.removeprefix("hf:")).name


if __name__ == "__main__":
    flags.launch(Serve, main, "./launch/run serve")
