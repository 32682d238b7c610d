"""A server of a tiny model with random weights, whose tokens are bytes, and the official client for it."""

import contextlib
import dataclasses
import functools
import threading
import time
from typing import Any, NamedTuple

import jax
import openai
import pytest
import uvicorn

from jaxtrain import config
from jaxtrain.apps.serve import app, http, request_params
from jaxtrain.apps.serve.metrics import Metrics
from jaxtrain.apps.serve.responses import ServedModel
from jaxtrain.apps.serve.scheduler import ModelRunner, Scheduler
from jaxtrain.apps.serve.server import Server, ServerLimits
from jaxtrain.apps.serve.store import CompletionStore
from jaxtrain.apps.serve.weights_folder import WeightsFolder, weights_reader
from jaxtrain.data import chat
from jaxtrain.data.tokenizer import ByteTokenizer
from jaxtrain.generate import engine
from jaxtrain.generate.prompt_logprobs import prompt_scorer
from jaxtrain.models import transformer
from jaxtrain.stages.init_from import InitFrom
from jaxtrain.stages.load_model import LoadedModel
from jaxtrain.train import parallel
from tests import tiny

ARCH = dataclasses.replace(tiny.shrink("llama2-7b", layers=2, vocab=320), max_len=0)
CONTEXT, ROWS, CHUNK, WAITING, BODY = 512, 3, 2, 2, 20_000
NAME = "tiny"
KEY = "a key"
HI = [{"role": "user", "content": "Hi?"}]


@functools.cache
def model():
    """(the model, its parameters, its ModelRunner)."""
    plan = parallel.make(config.Run(), jax.devices()[:1])
    lm = transformer.build(ARCH, tiny.how())
    params = plan.init(lambda: lm.init(jax.random.key(0)), lm.axes)
    decoding = engine.build_engine(
        plan,
        lm,
        ends=(template().end,),
        max_new=CONTEXT,
        slots=CONTEXT,
        top_logprobs=request_params.MAX_TOP_LOGPROBS,
        max_steps=CHUNK,
    )
    ready = decoding.ready(params, ())
    runner = ModelRunner(
        engine=decoding,
        params=ready,
        rows=ROWS,
        chunk=CHUNK,
        context=CONTEXT,
        vocab=ARCH.vocab,
        read_weights=weights_reader(LoadedModel(lm, params, plan, InitFrom(ARCH, None, {})), decoding),
        score_prompt=prompt_scorer(plan, lm, request_params.MAX_TEXT_LOGPROBS, CONTEXT),
    )
    return lm, params, runner


@functools.cache
def template():
    return chat.load_template("plain", ByteTokenizer())


class RunningServer(NamedTuple):
    url: str
    state: Server

    def client(self, key: str = KEY, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, **options)

    def metric(self, text: str) -> float:
        """The value of a metric."""
        body = self.state.metrics.response().body.decode()
        return float(next(line.rpartition(" ")[2] for line in body.splitlines() if line.startswith(text)))


def make_server(path, key=KEY, weights=None):
    """The state of a server; `path` is its store's, or None, and `weights` the folder below which weights may lie."""
    served = ServedModel(
        NAME, 1_700_000_000, "fp_test", template(), (template().end,), template().tokenizer.decode
    )
    scheduler = Scheduler(model()[2], WAITING)
    store = CompletionStore(path) if path else None
    state = Server(served, scheduler, store, ServerLimits(key, BODY), Metrics([scheduler], store))
    return state._replace(weights=WeightsFolder(weights)) if weights else state


@contextlib.contextmanager
def running(state):
    """The server in a thread of this process."""
    sock = http.listen("127.0.0.1", 0)
    uvicorn_server = uvicorn.Server(http.settings(app.app(state), drain=5, answer_seconds=60))
    thread = threading.Thread(target=uvicorn_server.run, kwargs={"sockets": [sock]})
    thread.start()
    try:
        yield RunningServer(f"http://127.0.0.1:{sock.getsockname()[1]}", state)
    finally:
        uvicorn_server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(make_server(tmp_path_factory.mktemp("store") / "store.sqlite")) as running_server:
        yield running_server


@pytest.fixture(scope="module")
def client(server):
    with server.client() as openai_client:
        yield openai_client


def eventually(condition, seconds=10.0):
    """Whether `condition()` becomes true in time."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False
