"""A server of loaded models: every program compiled, a scheduler of each started; in this thread or behind another."""

import socket
import threading
import time
from collections.abc import Sequence

import uvicorn

from jaxtrain.apps.serve import app, http, request_params
from jaxtrain.apps.serve.config import Serve
from jaxtrain.apps.serve.metrics import Metrics
from jaxtrain.apps.serve.responses import ServedModel
from jaxtrain.apps.serve.scheduler import ModelRunner, Scheduler, warm_up
from jaxtrain.apps.serve.server import Server, ServerLimits
from jaxtrain.apps.serve.store import CompletionStore
from jaxtrain.apps.serve.weights_folder import WeightsFolder, weights_reader
from jaxtrain.config import ConfigError, Failure
from jaxtrain.data import chat
from jaxtrain.data.chat import Template
from jaxtrain.files import cache
from jaxtrain.generate import engine, sampler
from jaxtrain.generate.prompt_logprobs import prompt_scorer
from jaxtrain.inference.sampler import decoder
from jaxtrain.stages import init_from, run_turns
from jaxtrain.stages.load_model import LoadedModel


def open_runner(
    cfg: Serve, name: str, loaded: LoadedModel, template: Template, context: int
) -> tuple[ModelRunner, ServedModel]:
    """A loaded model compiled for the scheduler, and the model `name` as clients see it."""
    model, trained, plan, start = loaded
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
        decoding.plan, model, request_params.MAX_TEXT_LOGPROBS, sampler.bucketed(context)
    )
    runner = ModelRunner(
        engine=decoding, params=ready, rows=cfg.served.rows, chunk=cfg.served.chunk, context=context,
        vocab=start.arch.vocab, score_prompt=score_prompt, read_weights=weights_reader(loaded, decoding),
    )  # fmt: skip
    warm_up(runner)
    digest = cache.digest(start.lineage["origin"], start.tokenizer.fingerprint, template.fingerprint)
    served = ServedModel(
        name=name, created=int(time.time()), fingerprint=f"fp_{digest}", template=template, ends=ends,
        decode=decoder(template, ends), tool_template=_tool_template(template),
        single_turn=bool(run_turns.single_turn(start.lineage)),
    )  # fmt: skip
    return runner, served


def _tool_template(template: Template) -> Template | None:
    """The template that the tokenizer has for requests with tools, as transformers chooses it."""
    named = template.tokenizer.named_templates if template.name == "auto" else {}
    return chat.load_template("hf:tool_use", template.tokenizer) if "tool_use" in named else None


def open_server(
    cfg: Serve, runners: Sequence[tuple[ModelRunner, ServedModel]], store: CompletionStore | None
) -> Server:
    """The server of compiled models, the first one in front; their schedulers start."""
    schedulers = [Scheduler(runner, cfg.http.waiting) for runner, _ in runners]
    limits = ServerLimits(cfg.http.key(), cfg.http.max_body_kb * 1024)
    metrics, root = Metrics(schedulers, store), cfg.served.weights_root()
    weights = WeightsFolder(root) if root else None
    first, *others = (
        Server(model=model, scheduler=scheduler, store=store, limits=limits, metrics=metrics, weights=weights)
        for (_, model), scheduler in zip(runners, schedulers, strict=True)
    )
    return first._replace(others=tuple(others))


class BackgroundServer:
    """A server in a thread of this process, until `close`. Used as `with ... as server`, or by itself."""

    def __init__(self, cfg: Serve, server: Server, sock: socket.socket):
        self.url = f"{http.url(sock)}/v1"  # of the API; the chat page is at / of the same address
        self._server = server
        settings = http.settings(app.app(server), cfg.http.drain, cfg.http.answer_seconds)
        self._uvicorn = uvicorn.Server(settings)
        for one in server.by_model.values():
            one.scheduler.on_failure = self._stop
        self._thread = threading.Thread(
            target=self._uvicorn.run, kwargs={"sockets": [sock]}, name="serve", daemon=True
        )
        self._thread.start()

    def __repr__(self) -> str:
        return f"serving {' and '.join(self._server.by_model)} at {self.url}"

    def _stop(self) -> None:
        self._uvicorn.should_exit = True

    def close(self) -> None:
        """Ends the server once running requests are answered. Raises Failure where decoding has failed."""
        self._stop()
        self._thread.join()
        for one in self._server.by_model.values():
            if (error := one.scheduler.failure) is not None:
                raise Failure(f"decoding failed: {type(error).__name__}: {error}") from error

    def __enter__(self) -> "BackgroundServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
