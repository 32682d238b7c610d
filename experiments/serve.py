"""Serve runs over OpenAI's HTTP API, with a page to chat with them, and store completions."""

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jaxtrain import config, flags
from jaxtrain.apps.serve.config import DEFAULT_CONTEXT, EXTRA, Serve, ServedModelFlags
from jaxtrain.config import ConfigError
from jaxtrain.files.atomic import check_export

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtrain.apps.serve.responses import ServedModel
    from jaxtrain.apps.serve.scheduler import ModelRunner
    from jaxtrain.apps.serve.server import Server
    from jaxtrain.apps.serve.store import CompletionStore
    from jaxtrain.data.chat import Template
    from jaxtrain.stages.init_from import InitFrom
    from jaxtrain.train.parallel import Plan


class ServedRun(NamedTuple):
    """A run to serve."""

    name: str  # in requests
    start: "InitFrom"
    template: "Template"
    context: int  # most tokens of prompt and completion


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

    runs = []
    for name, model in _models(cfg.served):
        start = init_from.load_run(model, "model", causal=True)
        template = chat.load_template(cfg.served.template, start.tokenizer, otherwise="none")
        runs.append(ServedRun(name, start, template, _context(cfg, model, start.arch.max_len)))
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(http.listen(cfg.http.host, cfg.http.port))
        store = CompletionStore(Path(cfg.kept.store).expanduser()) if cfg.kept.store else None
        if store:
            stack.callback(store.close)
        host.keep_freed_memory()
        server = open_server(cfg, runs, store)

        from jaxtrain.apps.serve import app

        http.run(
            app.app(server),
            sock,
            [one.scheduler for one in server.by_model.values()],
            cfg.http.drain,
            lambda: _print_settings(cfg, runs, http.url(sock)),
            cfg.http.answer_seconds,
        )
    http.leave()


def _print_settings(cfg: Serve, runs: "Sequence[ServedRun]", url: str) -> None:
    from jaxtrain.files import terminal

    key = "required" if cfg.http.key() else "none: only programs on this machine are served"
    table = []
    for run in runs:
        label = f" of {run.name}" if len(runs) > 1 else ""
        waiting = f"{cfg.http.waiting} may wait; {run.context:,} tokens of prompt and completion"
        table += [
            (f"template{label}", run.template.name),
            *((f"template{label}", note) for note in run.template.notes),
            (f"rows{label}", f"{cfg.served.rows} at once, {waiting}"),
        ]
    table += [
        ("API key", key),
        ("store", cfg.kept.store or "none: requests with store=True are refused"),
        ("chat page", f"{url}/"),
    ]
    print("\n".join(terminal.lines(table)))
    names = " and ".join(run.name for run in runs)
    print(f"serving {names} at {url}/v1, until Ctrl-C or SIGTERM", flush=True)


def export(store: Path, out: Path) -> None:
    """Writes the completions of a store as JSON lines, and prints their number."""
    from jaxtrain.apps.serve import store as completion_store

    check_export(store, out)
    print(f"{completion_store.export(store, out):,} completions of {store} in {out}")


def _models(served: ServedModelFlags) -> list[tuple[str, str]]:
    """(name in requests, run) of each of --model. Raises ConfigError for names that do not tell them apart."""
    whole = Path(served.model).expanduser().exists()  # a folder's name may have commas
    models = [served.model] if whole else [one.strip() for one in served.model.split(",")]
    if not all(models):
        raise ConfigError(f"--model={served.model}: a name before or after a comma is empty")
    names = (
        [one.strip() for one in served.name.split(",")] if served.name and len(models) > 1 else [served.name]
    )
    if not served.name:
        names = [Path(one.removeprefix("hf:")).name for one in models]
    if len(names) != len(models) or not all(names):
        raise ConfigError(
            f"--name={served.name}: give a name for each of the {len(models)} models, joined by commas"
        )
    if len({*names}) < len(names):
        raise ConfigError(
            f"--model={served.model}: two models would have the name {max(names, key=names.count)}; name them with "
            "--name=A,B"
        )
    return [*zip(names, models, strict=True)]


def _context(cfg: Serve, model: str, model_context: int) -> int:
    """The most tokens of prompt and completion; `model_context` 0: the model has no limit."""
    context = cfg.served.context
    if model_context and context > model_context:
        raise ConfigError(f"--context={context}: the context of --model={model} is {model_context}")
    return context or min(model_context or DEFAULT_CONTEXT, DEFAULT_CONTEXT)


def open_server(cfg: Serve, runs: "Sequence[ServedRun]", store: "CompletionStore | None") -> "Server":
    """The server of the runs: models loaded, every program compiled, a scheduler of each started."""
    import jax

    from jaxtrain.apps.serve.metrics import Metrics
    from jaxtrain.apps.serve.scheduler import Scheduler
    from jaxtrain.apps.serve.server import Server, ServerLimits
    from jaxtrain.train import parallel, processes

    processes.initialize(cfg.machine.cache_dir)
    if jax.process_count() > 1:
        raise ConfigError("serve takes one process; --mesh spreads the model over its devices")
    kind = "mesh" if jax.device_count() > 1 else "auto"
    plan = parallel.make(config.Run(mesh=cfg.machine.mesh, parallel=kind))
    runners = [_open_runner(cfg, run, plan) for run in runs]  # all, before the first thread starts
    schedulers = [Scheduler(runner, cfg.http.waiting) for runner, _ in runners]
    limits = ServerLimits(cfg.http.key(), cfg.http.max_body_kb * 1024)
    metrics = Metrics(schedulers, store)
    first, *others = (
        Server(model=model, scheduler=scheduler, store=store, limits=limits, metrics=metrics)
        for (_, model), scheduler in zip(runners, schedulers, strict=True)
    )
    return first._replace(others=tuple(others))


def _open_runner(cfg: Serve, run: ServedRun, plan: "Plan") -> "tuple[ModelRunner, ServedModel]":
    """A run's model, loaded and compiled, and the model as clients see it."""
    from jaxtrain.apps.serve import request_params
    from jaxtrain.apps.serve.responses import ServedModel
    from jaxtrain.apps.serve.scheduler import ModelRunner, warm_up
    from jaxtrain.files import cache
    from jaxtrain.generate import engine, sampler
    from jaxtrain.generate.prompt_logprobs import prompt_scorer
    from jaxtrain.inference import chat as inference_chat
    from jaxtrain.stages import init_from
    from jaxtrain.stages.load_model import load_model

    start, template, context = run.start, run.template, run.context
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
    digest = cache.digest(start.lineage["origin"], start.tokenizer.fingerprint, template.fingerprint)
    served = ServedModel(
        name=run.name, created=int(time.time()), fingerprint=f"fp_{digest}", template=template, ends=ends,
        decode=inference_chat.decoder(template, ends),
        tool_template=_tool_template(template),
    )  # fmt: skip
    return runner, served


def _tool_template(template: "Template") -> "Template | None":
    """The template that the tokenizer has for requests with tools, as transformers chooses it."""
    from jaxtrain.data import chat

    named = template.tokenizer.named_templates if template.name == "auto" else {}
    return chat.load_template("hf:tool_use", template.tokenizer) if "tool_use" in named else None


if __name__ == "__main__":
    flags.launch(Serve, main, "./launch/run serve")
