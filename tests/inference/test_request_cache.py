"""The request cache: shared by threads and processes, and keyed by the whole request."""

import contextlib
import sqlite3
import threading

import pytest

from jaxtrain.config import Failure
from jaxtrain.inference.request_cache import RequestCache, key_of


def test_the_cache_is_for_threads_and_survives_what_is_no_database(tmp_path):
    path = tmp_path / "c.sqlite"
    cache = RequestCache(path)

    def fill(first):
        for i in range(first, first + 50):
            cache.put(str(i), {"i": i, "half": "\ud800"})

    threads = [threading.Thread(target=fill, args=(50 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other = RequestCache(path)  # what another process sees
    assert [other.get(str(i))["i"] for i in range(200)] == list(range(200)) and other.get("200") is None
    cache.close()
    other.close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM answers").fetchone() == (200,)
    (tmp_path / "bad.sqlite").write_text("no database " * 100)
    with pytest.raises(Failure, match=r"bad\.sqlite cannot be used .*move the file away"):
        RequestCache(tmp_path / "bad.sqlite")


def test_keys_differ_with_every_part_of_a_request():
    request = {"model": "m", "seed": 1, "messages": []}
    keys = {key_of("u", "/p", request), key_of("v", "/p", request), key_of("u", "/q", request)}
    keys |= {key_of("u", "/p", {**request, "seed": 2}), key_of("u", "/p", {**request, "model": "n"})}
    assert len(keys) == 5 and key_of("u", "/p", dict(reversed(request.items()))) in keys
