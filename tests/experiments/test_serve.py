"""A run served, by the command and through the official client, and what it answered learnt from."""

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
    template = chat.load_template("auto", start.tokenizer)
    with quick():
        house = serve.open_server(cfg, start, template, 64, CompletionStore(town / "store.sqlite"))
    with running(house) as found:
        yield found


def ask(client, question, **options):
    messages = [{"role": "user", "content": question}]
    return client.chat.completions.create(model="sft", messages=messages, **options)


def collect(client, use, **options):
    """Stores answers to all questions; returns how many ended by themselves."""
    found = [
        ask(
            client,
            question,
            store=True,
            metadata={"use": use},
            n=3,
            seed=i,
            logprobs=True,
            top_logprobs=5,
            **options,
        )
        for i, question in enumerate(QUESTIONS)
    ]
    return sum(choice.finish_reason == "stop" for one in found for choice in one.choices)


def test_collect_with_store_then_train_on_it(town, server):
    with server.client("any") as client:
        ended = collect(client, "train", max_tokens=24)
        collect(client, "other", max_tokens=2)
    assert 2 < ended < 27, "some of either kind"
    data = f"store:{town / 'store.sqlite'}?model=sft&metadata.use=train"
    said = town.again(
        "sft", "learnt", "--steps=4", "--eval_every=2", "--eval_share=0.2", "--system=Be kind.", data=data
    )
    assert "format stored" in said and f"{27 - ended} choices that were cut off" in said
    assert "9 completions without model=sft, metadata.use=train left out" in said
    losses, held_out = column(town / "learnt", "loss"), column(town / "learnt", "eval/loss")
    assert len(losses) == 4 and held_out[-1] < held_out[0]
    out = town / "export.jsonl"
    assert f"18 completions of {town / 'store.sqlite'}" in call(
        "serve", f"--store={town / 'store.sqlite'}", f"--export={out}"
    )
    again = town.again(
        "sft", "exported", "--steps=4", "--eval_every=2", "--eval_share=0.2", "--system=Be kind.",
        data=f"store:{out}?model=sft&metadata.use=train",
    )  # fmt: skip
    assert "format stored" in again and column(town / "exported", "loss") == losses, "an export is the store"
    with pytest.raises(ConfigError, match="no completion left"):
        town.again("sft", "nothing", data=f"store:{out}?metadata.use=test")


def test_what_the_teacher_thought_is_distilled_from_the_store(town, server):
    with server.client("any") as client:
        collect(client, "distil", max_tokens=24)
    data = f"store:{town / 'store.sqlite'}?metadata.use=distil"
    with quick():
        said = call(
            "distill", f"--data={data}", "--teacher=data", f"--init_from={town / 'sft'}", town.cache, *town.SMALL,
            "--steps=3", "--eval_share=0.2", "--on_bad_record=skip", f"--workdir={town / 'distilled'}",
        )  # fmt: skip
    assert "stored completions" in said and "choices that were cut off" in said
    assert "gave no word of" not in said, "our server tells the end too"
    assert len(column(town / "distilled", "loss")) == 3


def test_synthesize_asks_this_server(town, server, tmp_path):
    """Questions given, answers by the served run; asked again, the cache has them all."""
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps({"prompt": one}) + "\n" for one in QUESTIONS))

    def rows(name):
        call(
            "synthesize", "--kind=qa", f"--source=jsonl:{tmp_path / 'asked.jsonl'}", "--prompting=base",
            f"--generator={server.url}/v1?model=sft", "--samples=3", "--count=9", "--near=1", "--min_chars=1",
            "--max_new=32", "--answer_temperature=1", "--retries=1", f"--out={tmp_path / name}",
            f"--cache_dir={tmp_path / 'cache'}",
        )  # fmt: skip
        return [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]

    with quick():
        made = rows("made.jsonl")
        sent = server.number("jaxtrain_requests_total")
        again = rows("again.jsonl")
    assert made and {row["prompt"] for row in made} <= {*QUESTIONS}
    assert all(row["provenance"]["expert"].endswith("?model=sft") for row in made)
    assert [row["completion"] for row in again] == [row["completion"] for row in made]
    assert server.number("jaxtrain_requests_total") == sent


def test_an_answer_is_what_sample_gives(town, server):
    with server.client("any") as client:
        served = ask(client, QUESTIONS[0], seed=3, max_tokens=24).choices[0].message.content
    with quick():
        said = call(
            "sample", f"--init_from={town / 'sft'}", town.cache, "--max_new=24", f"--prompt={QUESTIONS[0]}", "--seed=3"
        )  # fmt: skip
    assert served.strip() and served in said


def test_load_measures_a_server_on_this_machine(server):
    said = call("load", f"--url={server.url}/v1", "--clients=1,3", "--requests=4", "--max_tokens=8")
    assert said.count("tokens/s") == 2 and "(1.0 times)" in said and "first token" in said
    assert server.house.desk.counts == (0, 0)
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
        (("--export=x.jsonl", "--store="), "name the store"),
        (("--export=x.jsonl", "--store=nowhere.sqlite"), "no such file"),
    ],
)
def test_flags_that_cannot_be(flags, words, monkeypatch):
    monkeypatch.delenv(serve_config.KEY, raising=False)
    with pytest.raises(ConfigError, match=words):
        serve.main(config(*flags))


def test_a_port_that_is_taken_and_a_store_that_is_none_are_told_first(town, tmp_path):
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
    made = {
        "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1", "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", serve_config.KEY: "secret",
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
        env={**os.environ, **made}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
    )  # fmt: skip
    for line in process.stdout:
        if line.startswith("serving sft at "):
            return process, line.split()[3].rstrip(",")
    raise AssertionError(process.stderr.read())


def test_sigterm_lets_what_is_under_way_end_and_kill_9_loses_nothing(town, tmp_path):
    path = tmp_path / "store.sqlite"
    process, url = start(town, path)
    with process, openai.OpenAI(base_url=url, api_key="secret", max_retries=0) as client:
        options = {"store": True, "stream": True, "max_tokens": 200, "logprobs": True}
        stream = iter(ask(client, "A list:", seed=4, **options))
        next(stream)
        process.send_signal(signal.SIGTERM)
        rest = list(stream)
        assert rest[-1].choices[0].finish_reason, "it went on to its end"
        out, err = process.communicate(timeout=30)
        assert process.returncode == 0, out + err
    process, url = start(town, path)
    with process, openai.OpenAI(base_url=url, api_key="secret", max_retries=0) as client:
        (kept,) = client.chat.completions.list().data
        told = [ask(client, "Hi", store=True, max_tokens=4).id for _ in range(3)]
        under_way = threading.Thread(target=_unanswered, args=(client,))
        under_way.start()
        assert eventually(lambda: _busy(url) > 0)
        process.kill()
        under_way.join(10)
        process.communicate(timeout=30)
        assert process.returncode == -signal.SIGKILL
    held = CompletionStore(path)
    found, more = held.page("", 9, False, "", {})
    held.close()
    assert [one["id"] for one in found] == [kept.id, *told] and not more


def _unanswered(client):
    with pytest.raises(openai.APIConnectionError):
        ask(client, "A list:", store=True, n=2, max_tokens=200)


def _busy(url):
    with urllib.request.urlopen(url.removesuffix("/v1") + "/health", timeout=5) as response:
        return json.loads(response.read())["busy"]
