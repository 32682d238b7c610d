"""Serve a run over OpenAI's HTTP API, and store the completions of requests with store=True."""

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

from jaxtrain import config, flags
from jaxtrain.apps.serve.config import DEFAULT_CONTEXT, EXTRA, Serve
from jaxtrain.config import ConfigError
from jaxtrain.files.atomic import check_export

if TYPE_CHECKING:
    from jaxtrain.apps.serve.server import Server
    from jaxtrain.apps.serve.store import CompletionStore
    from jaxtrain.data.chat import Template
    from jaxtrain.stages.init_from import InitFrom


def main(cfg: Serve) -> None:
    """Checks the flags, loads the run, compiles the decoding, and serves until a signal."""
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

    start = init_from.load_run(cfg.served.model, "model", causal=True)
    template = chat.load_template(cfg.served.template, start.tokenizer, otherwise="none")
    context = _context(cfg, start.arch.max_len)
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(http.listen(cfg.http.host, cfg.http.port))
        store = CompletionStore(Path(cfg.kept.store).expanduser()) if cfg.kept.store else None
        if store:
            stack.callback(store.close)
        host.keep_freed_memory()
        server = open_server(cfg, start, template, context, store)

        from jaxtrain.apps.serve import app

        http.run(
            app.app(server),
            sock,
            server.scheduler,
            cfg.http.drain,
            lambda: _print_settings(cfg, server, template, context, http.url(sock)),
            cfg.http.answer_seconds,
        )
    http.leave()


def _print_settings(cfg: Serve, server: "Server", template: "Template", context: int, url: str) -> None:
    from jaxtrain.files import terminal

    key = "required" if server.limits.api_key else "none: only programs on this machine are served"
    waiting = f"{cfg.http.waiting} may wait; {context:,} tokens of prompt and completion"
    table = [
        ("template", template.name),
        *(("template", note) for note in template.notes),
        ("rows", f"{cfg.served.rows} at once, {waiting}"),
        ("API key", key),
        ("store", cfg.kept.store or "none: requests with store=True are refused"),
    ]
    print("\n".join(terminal.lines(table)))
    print(f"serving {server.model.name} at {url}/v1, until Ctrl-C or SIGTERM", flush=True)


def export(store: Path, out: Path) -> None:
    """Writes the completions of a store as JSON lines, and prints their number."""
    from jaxtrain.apps.serve import store as completion_store

    check_export(store, out)
    print(f"{completion_store.export(store, out):,} completions of {store} in {out}")


def _context(cfg: Serve, model_context: int) -> int:
    """The most tokens of prompt and completion; `model_context` 0: the model has no limit."""
    context = cfg.served.context
    if model_context and context > model_context:
        raise ConfigError(
            f"--context={context}: the context of --model={cfg.served.model} is {model_context}"
        )
    return context or min(model_context or DEFAULT_CONTEXT, DEFAULT_CONTEXT)


def open_server(
    cfg: Serve, start: "InitFrom", template: "Template", context: int, store: "CompletionStore | None"
) -> "Server":
    """The server of a run: model loaded, every program compiled, scheduler started."""
    import jax

    from jaxtrain.apps.serve import request_params
    from jaxtrain.apps.serve.metrics import Metrics
    from jaxtrain.apps.serve.responses import ServedModel
    from jaxtrain.apps.serve.scheduler import ModelRunner, Scheduler, warm_up
    from jaxtrain.apps.serve.server import Server, ServerLimits
    from jaxtrain.files import cache
    from jaxtrain.generate import engine, sampler
    from jaxtrain.generate.prompt_logprobs import prompt_scorer
    from jaxtrain.inference import chat as inference_chat
    from jaxtrain.stages import init_from
    from jaxtrain.stages.load_model import load_model
    from jaxtrain.train import parallel, processes

    processes.initialize(cfg.machine.cache_dir)
    if jax.process_count() > 1:
        raise ConfigError("serve takes one process; --mesh spreads the model over its devices")
    kind = "mesh" if jax.device_count() > 1 else "auto"
    plan = parallel.make(config.Run(mesh=cfg.machine.mesh, parallel=kind))
    model, trained, *_ = load_model(start, plan, config.Model(dtype=cfg.machine.dtype))
    ends = init_from.end_ids(start, template.ends)
    decoding = engine.build_engine(
        plan, model, ends=ends, max_new=context, slots=sampler.bucketed(context),
        top_logprobs=request_params.MAX_TOP_LOGPROBS, max_steps=cfg.served.chunk,
    )  # fmt: skip
    if cfg.served.rows % decoding.plan.shards:
        raise ConfigError(
            f"--rows={cfg.served.rows}: use a multiple of the {decoding.plan.shards} devices that share the rows"
        )
    ready = decoding.ready(trained, ())
    score_prompt = prompt_scorer(
        decoding.plan, model, ready, request_params.MAX_TEXT_LOGPROBS, sampler.bucketed(context)
    )
    runner = ModelRunner(
        engine=decoding, params=ready, rows=cfg.served.rows, chunk=cfg.served.chunk, context=context,
        vocab=start.arch.vocab, score_prompt=score_prompt,
    )  # fmt: skip
    warm_up(runner)
    scheduler = Scheduler(runner, cfg.http.waiting)
    digest = cache.digest(start.lineage["origin"], start.tokenizer.fingerprint, template.fingerprint)
    served = ServedModel(
        name=_name(cfg), created=int(time.time()), fingerprint=f"fp_{digest}", template=template, ends=ends,
        decode=inference_chat.decoder(template, ends),
        tool_template=_tool_template(template),
    )  # fmt: skip
    return Server(
        model=served,
        scheduler=scheduler,
        store=store,
        limits=ServerLimits(cfg.http.key(), cfg.http.max_body_kb * 1024),
        metrics=Metrics(scheduler, store),
    )


def _tool_template(template: "Template") -> "Template | None":
    """The template that the tokenizer has for requests with tools, as transformers chooses it."""
    from jaxtrain.data import chat

    named = template.tokenizer.named_templates if template.name == "auto" else {}
    return chat.load_template("hf:tool_use", template.tokenizer) if "tool_use" in named else None


def _name(cfg: Serve) -> str:
    return cfg.served.name or Path(cfg.served.model.removeprefix("hf:")).name


if __name__ == "__main__":
    flags.launch(Serve, main, "./launch/run serve")
