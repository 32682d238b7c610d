"""A run served by the command, requested through the official client, and training on the stored completions."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request

import openai
import pytest

from experiments import serve
from jaxtrain import flags as command_line
from jaxtrain.apps.serve import config as serve_config
from jaxtrain.apps.serve.store import CompletionStore
from jaxtrain.config import ConfigError
from jaxtrain.data import chat
from jaxtrain.inference import config as inference_config
from jaxtrain.stages import init_from
from tests.apps.serve.conftest import eventually, running
from tests.runs import ROOT, call, column, quick

QUESTIONS = [
    f"How do I {verb} a {thing}?" for verb in ("wash", "paint", "sell") for thing in ("bike", "boat", "clock")
]


def config(*flags):
    return command_line.from_flags(serve_config.Serve, list(flags))


@pytest.fixture(scope="module")
def server(town):
    """The run `sft` behind the API in this process, with a store."""
    cfg = config(f"--model={town / 'sft'}", "--context=64", "--rows=4", town.cache)
    start = init_from.load_run(cfg.served.model)
    run = serve.ServedRun("sft", start, chat.load_template("auto", start.tokenizer), 64)
    with quick():
        state = serve.open_server(cfg, [run], CompletionStore(town / "store.sqlite"))
    with running(state) as running_server:
        yield running_server


def test_two_models_have_their_own_names(town, tmp_path):
    sft = town / "sft"
    cfg = config(
        f"--model={sft},{sft}", "--name=one, two", "--context=64", "--rows=2", "--store=", town.cache
    )
    start = init_from.load_run(str(sft))
    template = chat.load_template("auto", start.tokenizer)
    runs = [serve.ServedRun(name, start, template, 64) for name, _ in serve._models(cfg.served)]
    with quick():
        state = serve.open_server(cfg, runs, None)
    with running(state) as server, server.client("any") as client:
        assert [one.id for one in client.models.list().data] == ["one", "two"]
        messages = [{"role": "user", "content": QUESTIONS[0]}]
        texts = {
            name: client.chat.completions.create(model=name, messages=messages, seed=3, max_tokens=16)
            for name in ("one", "two")
        }
        assert texts["one"].choices[0].message.content == texts["two"].choices[0].message.content
        assert [one.model for one in texts.values()] == ["one", "two"]
        with pytest.raises(openai.NotFoundError, match="here: 'one', 'two' do"):
            client.chat.completions.create(model="sft", messages=messages)
        assert server.metric("jaxtrain_rows ") == 4
    assert not any(one.scheduler._thread.is_alive() for one in state.by_model.values())


def test_a_folder_may_have_a_comma(tmp_path):
    (tmp_path / "a,b").mkdir()
    assert serve._models(config(f"--model={tmp_path / 'a,b'}").served) == [("a,b", str(tmp_path / "a,b"))]
    assert serve._models(config("--model=hf:org/name", "--name=x,y").served) == [("x,y", "hf:org/name")]


def chat_completion(client, question, **options):
    messages = [{"role": "user", "content": question}]
    return client.chat.completions.create(model="sft", messages=messages, **options)


def collect(client, use, **options):
    """Stores completions of all questions; returns how many finished with a stop."""
    params = {"store": True, "metadata": {"use": use}, "n": 3, "logprobs": True, "top_logprobs": 5, **options}
    responses = [chat_completion(client, question, seed=i, **params) for i, question in enumerate(QUESTIONS)]
    return sum(choice.finish_reason == "stop" for response in responses for choice in response.choices)


def test_collect_with_store_then_train_on_it(town, server):
    with server.client("any") as client:
        ended = collect(client, "train", max_tokens=24)
        collect(client, "other", max_tokens=2)
    assert 2 < ended < 27, "some of either kind"
    data = f"store:{town / 'store.sqlite'}?model=sft&metadata.use=train"
    output = town.again(
        "sft",
        "learnt",
        "--steps=12",
        "--lr=0.02",
        "--eval_every=4",
        "--eval_share=0.2",
        "--system=Be kind.",
        data=data,
    )
    assert "format stored" in output and f"{27 - ended} choices that were cut off" in output
    assert "9 completions without model=sft, metadata.use=train left out" in output
    losses = column(town / "learnt", "loss")
    # The held-out loss of so few completions may rise, since the training set is memorised at once.
    assert len(losses) == 12 and sum(losses[-4:]) < 0.9 * sum(losses[:4])
    assert len(column(town / "learnt", "eval/loss")) == 3
    out = town / "export.jsonl"
    assert f"18 completions of {town / 'store.sqlite'}" in call(
        "serve", f"--store={town / 'store.sqlite'}", f"--export={out}"
    )
    again = town.again(
        "sft", "exported", "--steps=12", "--lr=0.02", "--eval_every=4", "--eval_share=0.2", "--system=Be kind.",
        data=f"store:{out}?model=sft&metadata.use=train",
    )  # fmt: skip
    assert "format stored" in again and column(town / "exported", "loss") == losses, "an export is the store"
    with pytest.raises(ConfigError, match="no completion left"):
        town.again("sft", "nothing", data=f"store:{out}?metadata.use=test")


def test_distillation_reads_the_teachers_logprobs_from_the_store(town, server):
    with server.client("any") as client:
        collect(client, "distil", max_tokens=24)
    data = f"store:{town / 'store.sqlite'}?metadata.use=distil"
    with quick():
        output = call(
            "distill", f"--data={data}", "--teacher=data", f"--init_from={town / 'sft'}", town.cache, *town.SMALL,
            "--steps=3", "--eval_share=0.2", "--on_bad_record=skip", f"--workdir={town / 'distilled'}",
        )  # fmt: skip
    assert "stored completions" in output and "choices that were cut off" in output
    assert "gave no word of" not in output, "our server has the log-probs of the end token too"
    assert len(column(town / "distilled", "loss")) == 3


def test_synthesize_uses_this_server(town, server, tmp_path):
    """Answers of the served run to given questions; a second run gets all of them from the cache."""
    (tmp_path / "questions.jsonl").write_text(
        "".join(json.dumps({"prompt": one}) + "\n" for one in QUESTIONS)
    )

    def rows(name):
        call(
            "synthesize", "--kind=qa", f"--source=jsonl:{tmp_path / 'questions.jsonl'}", "--prompting=base",
            f"--generator={server.url}/v1?model=sft", "--samples=3", "--count=9", "--near=1", "--min_chars=1",
            "--max_new=32", "--answer_temperature=1", "--retries=1", f"--out={tmp_path / name}",
            f"--cache_dir={tmp_path / 'cache'}",
        )  # fmt: skip
        return [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]

    with quick():
        first = rows("first.jsonl")
        requests = server.metric("jaxtrain_requests_total")
        again = rows("again.jsonl")
    assert first and {row["prompt"] for row in first} <= {*QUESTIONS}
    assert all(row["provenance"]["expert"].endswith("?model=sft") for row in first)
    assert [row["completion"] for row in again] == [row["completion"] for row in first]
    assert server.metric("jaxtrain_requests_total") == requests


def test_the_completion_is_the_same_as_of_sample(town, server):
    with server.client("any") as client:
        served = chat_completion(client, QUESTIONS[0], seed=3, max_tokens=24).choices[0].message.content
    with quick():
        output = call(
            "sample", f"--init_from={town / 'sft'}", town.cache, "--max_new=24", f"--prompt={QUESTIONS[0]}", "--seed=3"
        )  # fmt: skip
    assert served.strip() and served in output


def test_load_measures_a_server_on_this_machine(server):
    output = call("load", f"--url={server.url}/v1", "--clients=1,3", "--requests=4", "--max_tokens=8")
    assert output.count("tokens/s") == 2 and "(1.0 times)" in output and "first token" in output
    assert server.state.scheduler.counts == (0, 0)
    for flag, words in {
        "--url=http://example.com/v1": "only a server on this machine",
        "--clients=0": "numbers from 1 to 256",
    }.items():
        with pytest.raises(ConfigError, match=words):
            call("load", flag)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "--model: name the run"),
        (("--host=0.0.0.0",), "it needs a key"),
        (("--port=70000",), "the highest is 65535"),
        (("--model=nowhere",), "nowhere"),
        (("--model=runs/a,,runs/b",), "before or after a comma is empty"),
        (("--model=x/a,y/a",), "two models would have the name a; name them with --name=A,B"),
        (("--model=x/a,y/b", "--name=a"), "a name for each of the 2 models"),
        (("--model=x/a,y/b", "--name=a,a"), "two models would have the name a"),
        (("--export=x.jsonl", "--store="), "name the store"),
        (("--export=x.jsonl", "--store=nowhere.sqlite"), "no such file"),
    ],
)
def test_invalid_flags(flags, words, monkeypatch):
    monkeypatch.delenv(inference_config.KEY, raising=False)
    with pytest.raises(ConfigError, match=words):
        serve.main(config(*flags))


def test_a_taken_port_and_an_invalid_store_are_reported_first(town, tmp_path):
    model = f"--model={town / 'sft'}"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"--port={port}: Address already in use"):
            serve.main(config(model, f"--port={port}", f"--store={tmp_path / 's'}"))
    (tmp_path / "text").write_text("no store " * 50)
    with pytest.raises(ConfigError, match=r"not a store|cannot be read"):
        serve.main(config(model, f"--store={tmp_path / 'text'}"))


def start(town, path, *flags):
    """The command as a process, and the address that it serves at."""
    env = {
        "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1", "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", inference_config.KEY: "secret",
    }  # fmt: skip
    command = [
        sys.executable,
        "-P",
        "-m",
        "experiments.serve",
        f"--model={town / 'sft'}",
        f"--store={path}",
        town.cache,
    ]
    process = subprocess.Popen(
        [*command, "--port=0", "--context=256", "--rows=2", "--chunk=1", *flags],
        env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
    )  # fmt: skip
    for line in process.stdout:
        if line.startswith("serving sft at "):
            return process, line.split()[3].rstrip(",")
    raise AssertionError(process.stderr.read())


def test_sigterm_lets_running_requests_finish_and_kill_9_loses_nothing(town, tmp_path):
    path = tmp_path / "store.sqlite"
    process, url = start(town, path)
    with process, openai.OpenAI(base_url=url, api_key="secret", max_retries=0) as client:
        options = {"store": True, "stream": True, "max_tokens": 200, "logprobs": True}
        stream = iter(chat_completion(client, "A list:", seed=4, **options))
        next(stream)
        process.send_signal(signal.SIGTERM)
        rest = list(stream)
        assert rest[-1].choices[0].finish_reason, "it went on to its end"
        out, err = process.communicate(timeout=30)
        assert process.returncode == 0, out + err
    process, url = start(town, path)
    with process, openai.OpenAI(base_url=url, api_key="secret", max_retries=0) as client:
        (stored,) = client.chat.completions.list().data
        confirmed = [chat_completion(client, "Hi", store=True, max_tokens=4).id for _ in range(3)]
        unanswered = threading.Thread(target=_until_killed, args=(client, confirmed))
        unanswered.start()
        assert eventually(lambda: _busy(url) > 0)
        process.kill()
        unanswered.join(10)
        process.communicate(timeout=30)
        assert process.returncode == -signal.SIGKILL
    store = CompletionStore(path)
    completions, more = store.page("", 999, False, "", {})
    store.close()
    ids, answered = [one["id"] for one in completions], [stored.id, *confirmed]
    assert ids[: len(answered)] == answered and len(ids) <= len(answered) + 1 and not more


SLOW = (
    "{% if messages[0].content == 'slow' %}{% for i in range(99999) %}{% for j in range(99999) %}"
    "{% endfor %}{% endfor %}{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}"
)


def test_the_process_answers_large_requests_and_ends_whatever_it_works_on(town, tmp_path):
    (tmp_path / "slow.jinja").write_text(SLOW)
    process, url = start(town, "", f"--template={tmp_path / 'slow.jinja'}", "--drain=1")
    host, port = url.removeprefix("http://").removesuffix("/v1").split(":")
    with process, contextlib.ExitStack() as stack:
        stack.callback(process.kill)
        client = stack.enter_context(openai.OpenAI(base_url=url, api_key="secret", max_retries=3, timeout=60))
        for count in (401, 1601, 20_001):
            messages = [{"role": "user", "content": "word " * 3}] * count
            with pytest.raises(openai.BadRequestError, match="maximum context length is 256") as error:
                client.chat.completions.create(model="sft", messages=messages)
            assert error.value.code == "context_length_exceeded"
        links = [
            stack.enter_context(socket.create_connection((host, int(port)), timeout=60)) for _ in range(40)
        ]
        for i, link in enumerate(links):
            body = json.dumps({"model": "sft", "messages": [{"role": "user", "content": "slow"}]})
            head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer secret\r\n"
            whole = f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()
            link.sendall(whole if i < 2 else whole[: 20 * (i % 14)])
        assert chat_completion(client, "Hi", max_tokens=2).choices, "others are answered meanwhile"
        process.send_signal(signal.SIGTERM)
        answers = [link.recv(15) for link in links[:2]]
        out, err = process.communicate(timeout=60)
    # Cancelled, or on a slow machine at the end of a template's time before.
    assert {*answers} <= {b"HTTP/1.1 503 Se", b"HTTP/1.1 400 Ba"}, answers
    assert process.returncode == 0 and "Traceback" not in err, out + err


def _until_killed(client, confirmed):
    """Adds the stored completions of request after request, however short they are, until the server is killed."""
    with pytest.raises(openai.APIConnectionError):
        while True:
            confirmed.append(chat_completion(client, "A list:", store=True, n=2, max_tokens=200).id)


def _busy(url):
    with urllib.request.urlopen(url.removesuffix("/v1") + "/health", timeout=5) as response:
        return json.loads(response.read())["busy"]
