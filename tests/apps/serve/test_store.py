"""The store of completions: through the official client, killed during a write, and files that are not a store."""

import concurrent.futures
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time

import openai
import pytest

from jaxtrain.apps.serve import store
from jaxtrain.apps.serve.store import CompletionStore
from jaxtrain.config import ConfigError
from tests.apps.serve.conftest import HI, NAME
from tests.runs import ROOT


def completion(i, model="m", **metadata):
    return {
        "id": f"c{i}",
        "created": 1000 + i // 3,
        "model": model,
        "metadata": metadata,
        "choices": [],
        "input": HI,
    }


@pytest.fixture
def completion_store(tmp_path):
    opened = CompletionStore(tmp_path / "store.sqlite")
    yield opened
    opened.close()


def ids(page):
    return [one["id"] for one in page[0]]


def test_stored_completions_through_the_client(client):
    def create(i):
        return client.chat.completions.create(
            model=NAME, messages=HI, store=True, metadata={"test": "crud", "n": str(i % 2)}, seed=i, max_tokens=3,
            temperature=0.5, stop=["\n"],
        )  # fmt: skip

    created = [create(i) for i in range(5)]
    listed = list(client.chat.completions.list(metadata={"test": "crud"}, limit=2))
    assert [one.id for one in listed] == [one.id for one in created], "the client turns the pages"
    down = client.chat.completions.list(metadata={"test": "crud", "n": "1"}, order="desc", model=NAME)
    assert [one.id for one in down] == [created[3].id, created[1].id]
    assert client.chat.completions.list(model="another").data == []
    first = client.chat.completions.list(metadata={"test": "crud"}, limit=2)
    assert first.has_more and first.model_extra["last_id"] == created[1].id
    stored = client.chat.completions.retrieve(created[0].id)
    assert stored.choices[0].message == created[0].choices[0].message and stored.usage == created[0].usage
    assert {k: stored.model_extra[k] for k in ("temperature", "seed", "stop", "max_tokens", "top_p", "n")} == {
        "temperature": 0.5, "seed": 0, "stop": ["\n"], "max_tokens": 3, "top_p": 1.0, "n": 1,
    }  # fmt: skip
    inputs = client.chat.completions.messages.list(created[0].id).data
    assert [(one.role, one.content) for one in inputs] == [("user", "Hi?")]
    assert inputs[0].id == f"{created[0].id}-0"
    assert client.chat.completions.update(created[0].id, metadata={"test": "other"}).metadata == {
        "test": "other"
    }
    assert [one.id for one in client.chat.completions.list(metadata={"test": "other"})] == [created[0].id]
    assert client.chat.completions.delete(created[1].id).deleted
    for call in (client.chat.completions.retrieve, client.chat.completions.delete):
        with pytest.raises(openai.NotFoundError, match=created[1].id):
            call(created[1].id)
    with pytest.raises(openai.NotFoundError, match="no-such"):
        client.chat.completions.update("no-such", metadata={})
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.list(after="no-such").data  # noqa: B018
    for query in ({"limit": 101}, {"order": "up"}, {"extra_query": {"colour": "red"}}):
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.list(**query)
    stream = client.chat.completions.create(
        model=NAME, messages=HI, store=True, metadata={"test": "stream"}, stream=True, max_tokens=3
    )
    texts = [chunk.choices[0].delta.content or "" for chunk in stream]
    (stored,) = client.chat.completions.list(metadata={"test": "stream"}).data
    assert stored.choices[0].message.content == "".join(texts)


def test_a_locked_store_does_not_delay_other_requests(server, client):
    other = sqlite3.connect(server.state.store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    params = {"model": NAME, "messages": HI, "store": True, "metadata": {"test": "busy"}, "max_tokens": 3}
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(client.chat.completions.create, **params) for _ in range(2)]
        for _ in range(5):
            assert client.chat.completions.create(model=NAME, messages=HI, max_tokens=3).choices
        assert client.chat.completions.list(metadata={"test": "busy"}).data == []
        assert not any(one.done() for one in waiting), "the response comes once its completion is stored"
        other.execute("ROLLBACK")
        other.close()
        ids = {one.result(10).id for one in waiting}
    assert {one.id for one in client.chat.completions.list(metadata={"test": "busy"})} == ids


def test_pages_cover_all_once_in_either_order(completion_store):
    for future in [
        completion_store.add(completion(i, model="mn"[i % 2], even=str(i % 2 == 0))) for i in range(10)
    ]:
        future.result()
    for descending in (False, True):
        listed, after, more = [], "", True
        while more:
            data, more = completion_store.page(after, 3, descending, "", {})
            listed += [one["id"] for one in data]
            after = listed[-1]
        assert listed == [f"c{i}" for i in range(10)][:: -1 if descending else 1]
    assert ids(completion_store.page("", 9, False, "n", {"even": "False"})) == ["c1", "c3", "c5", "c7", "c9"]
    assert completion_store.page("", 9, False, "n", {"even": "True"}) == ([], False)
    assert ids(completion_store.page("", 9, False, "", {"even": "' OR 1 --"})) == []
    completion_store.delete("c3").result()
    assert completion_store.page("c3", 9, False, "", {}) is None


def test_a_failed_write_raises_in_its_future_alone(completion_store):
    completion_store.add(completion(1)).result()
    with pytest.raises(sqlite3.IntegrityError):
        completion_store.add(completion(1)).result()
    completion_store.add(completion(2)).result()
    assert ids(completion_store.page("", 9, False, "", {})) == ["c1", "c2"]


def test_a_write_waits_for_another_process_and_reads_do_not(completion_store):
    other = sqlite3.connect(completion_store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    future = completion_store.add(completion(1))
    assert completion_store.page("", 9, False, "", {}) == ([], False)
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(0.1)
    other.execute("ROLLBACK")
    other.close()
    future.result(10)
    assert completion_store.get("c1") == completion(1)


WRITER = """
import sys
from pathlib import Path
from jaxtrain.apps.serve.store import CompletionStore
store = CompletionStore(Path(sys.argv[1]))
for i in range(10**9):
    store.add({"id": f"c{i}", "created": i, "model": "m", "metadata": {}, "text": "x" * 20_000}).result()
    print(i, flush=True)
"""


def test_committed_writes_survive_kill_9(tmp_path):
    path, last = tmp_path / "store.sqlite", -1
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        while last < 40:
            last = int(process.stdout.readline())
        time.sleep(0.005)  # somewhere in a later write
        os.kill(process.pid, signal.SIGKILL)
        last = max([last, *map(int, process.stdout.read().split())])
    assert process.returncode == -signal.SIGKILL
    out = tmp_path / "out.jsonl"
    count = store.export(path, out)
    assert count in (last + 1, last + 2), "all confirmed writes, and perhaps the one under way"
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [one["id"] for one in rows] == [f"c{i}" for i in range(count)] and {
        len(one["text"]) for one in rows
    } == {20_000}
    again = CompletionStore(path)
    again.add(completion(10**6)).result()
    again.close()
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["out.jsonl", "store.sqlite"], (
        "the write-ahead log is merged"
    )


@pytest.mark.parametrize("kind", ["text", "foreign", "folder", "no folder"])
def test_files_that_are_not_a_store(tmp_path, kind):
    path = tmp_path / "x"
    if kind == "text":
        path.write_text("once upon a time " * 100)
    elif kind == "foreign":
        db = sqlite3.connect(path)
        db.execute("CREATE TABLE t (x)")
        db.commit()
        db.close()
    elif kind == "folder":
        path.mkdir()
    else:
        (tmp_path / "f").write_text("a file")
        path = tmp_path / "f" / "x"
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(ConfigError, match=r"not a store|cannot be (read|written)"):
        CompletionStore(path)
    assert before is None or path.read_bytes() == before


def test_a_new_store_is_its_owner_s_alone_and_an_old_one_stays_as_it_is(tmp_path):
    path = tmp_path / "store.sqlite"
    CompletionStore(path).close()
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    CompletionStore(path).close()
    assert path.stat().st_mode & 0o777 == 0o640
