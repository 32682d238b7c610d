"""A server of a tiny model with random weights, whose tokens are bytes, and the official client to ask it."""

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
from jaxtrain.apps.serve import app, http, request_params, scheduler
from jaxtrain.apps.serve.metrics import Metrics
from jaxtrain.apps.serve.responses import ServedModel
from jaxtrain.apps.serve.server import Server, ServerLimits
from jaxtrain.apps.serve.store import CompletionStore
from jaxtrain.data import chat
from jaxtrain.data.tokenizer import ByteTokenizer
from jaxtrain.generate import engine
from jaxtrain.models import transformer
from jaxtrain.train import parallel
from tests import tiny

ARCH = dataclasses.replace(tiny.shrink("llama2-7b", layers=2, vocab=320), max_len=0)
CONTEXT, ROWS, CHUNK, WAITING, BODY = 512, 3, 2, 2, 20_000
NAME = "tiny"
KEY = "a key"
HI = [{"role": "user", "content": "Hi?"}]


@functools.cache
def model():
    """(the model, its parameters, what decodes them)."""
    plan = parallel.make(config.Run(), jax.devices()[:1])
    made = transformer.build(ARCH, tiny.how())
    params = plan.init(lambda: made.init(jax.random.key(0)), made.axes)
    drawn = engine.engine(
        plan,
        made,
        end=template().end,
        width=CONTEXT,
        slots=CONTEXT,
        tops=request_params.MAX_TOP_LOGPROBS,
        most=CHUNK,
    )
    return (
        made,
        params,
        scheduler.ModelRunner(drawn, drawn.ready(params, ()), ROWS, CHUNK, CONTEXT, ARCH.vocab),
    )


@functools.cache
def template():
    return chat.load_template("plain", ByteTokenizer())


class RunningServer(NamedTuple):
    url: str
    house: Server

    def client(self, key: str = KEY, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, **options)

    def number(self, text: str) -> float:
        """A number of /metrics."""
        said = self.house.told.response().body.decode()
        return float(next(line.rpartition(" ")[2] for line in said.splitlines() if line.startswith(text)))


def house(store, key=KEY):
    voice = ServedModel(NAME, 1_700_000_000, "fp_test", template(), template().tokenizer.decode)
    working = scheduler.Scheduler(model()[2], WAITING)
    kept = CompletionStore(store) if store else None
    return Server(voice, working, kept, ServerLimits(key, BODY), Metrics(working, kept))


@contextlib.contextmanager
def running(house):
    """The server in a thread of this process."""
    sock = http.listen("127.0.0.1", 0)
    settings = uvicorn.Config(
        app.app(house), log_level="critical", lifespan="on", timeout_graceful_shutdown=5
    )
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    try:
        yield RunningServer(f"http://127.0.0.1:{sock.getsockname()[1]}", house)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        with running(house(tmp_path_factory.mktemp("store") / "store.sqlite")) as found:
            yield found
    finally:
        jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def client(server):
    with server.client() as found:
        yield found


def eventually(holds, seconds=10.0):
    """Whether `holds()` comes true in time."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        if holds():
            return True
        time.sleep(0.01)
    return False
