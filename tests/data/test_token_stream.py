"""Parts that are written in order: what they hold, what is left out, and how writing goes on after a stop."""

import itertools
import json
import os
import signal
import threading
import time

import numpy as np
import pytest

from jaxtrain.config import ConfigError
from jaxtrain.data import source_spec, token_stream
from jaxtrain.data.token_cache import Fim
from jaxtrain.data.token_stream import StreamWriter, TokenStream
from jaxtrain.files.workers import Worker
from tests.data.cached_tokens import KIND, cached
from tests.data.corpus import text, write

COUNT = 2_200  # records of the corpus, in two files


@pytest.fixture
def stream(tmp_path, cfg):
    """A stream of two files, some of whose records are bad or empty."""

    def make(name="stream", *, held=(), fim=None, **changes):
        options = {"on_bad_record": "skip", "data_workers": 1, **changes}
        data = f"jsonl:{tmp_path}/*.jsonl"
        made = cfg(data, **options)
        paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
        numbers = np.array(held, np.int64)
        return TokenStream(source_spec.parse(data)[0], made, paths, numbers, KIND, fim, tmp_path / name)

    rows = [{"text": text(i)} for i in range(COUNT)]
    rows[700] = {"text": "  "}
    write(tmp_path / "a.jsonl", [*rows[:600], "broken", {"text": 7}, *rows[600:1500]])
    write(tmp_path / "b.jsonl", ["broken too", *rows[1500:]])
    return make


def documents(stream):
    """The texts of each part."""
    for k in itertools.count():
        if not stream.part(k).is_dir():
            return
        part = token_stream.token_parts.open_part(stream.part(k))
        ids = np.fromfile(part.path / "ids.bin", part.dtype)
        yield [
            KIND.decode(ids[a:b].tolist()) for a, b in zip(part.offsets[:-1], part.offsets[1:], strict=True)
        ]


def test_a_part_begins_where_its_number_says():
    assert [token_stream.start(k) for k in range(8)] == [0, 512, 1024, 2048, 4096, 8192, 16384, 24576]


def test_the_parts_are_the_records_in_order_without_those_held_out(stream, capsys):
    one = stream(held=[0, 5, 1030])
    token_stream.write(one)
    found = list(documents(one))
    assert [len(part) for part in found] == [510, 511, 1023, 152]  # one is empty
    expected = [text(i) for i in range(COUNT) if i not in (0, 5, 700, 1030)]
    assert [each for part in found for each in part] == expected
    end = one.end()
    assert (end["parts"], end["records"], end["documents"]) == (4, COUNT, COUNT - 4)
    assert (end["empty"], end["skipped"]) == (1, 3)
    lines = capsys.readouterr().err
    assert "all is tokenised: 2,196 documents" in lines and "3 bad records skipped, listed in" in lines
    listed = [json.loads(line) for line in (one.folder / "skipped.jsonl").read_text().splitlines()]
    places = [each["where"].rpartition("/")[2] for each in listed]
    assert places == ["a.jsonl:601", "a.jsonl:602", "b.jsonl:1"]


def test_it_goes_on_where_it_stopped_to_the_same_bytes(stream, monkeypatch):
    """From the file on in which the first missing part begins."""
    whole = stream("whole")
    token_stream.write(whole)
    build, opened = token_stream.TokenWorkers.submit, []

    def stopped(self, path, part, records):
        if path.name == "00003":
            raise KeyboardInterrupt
        build(self, path, part, records)

    cut = stream("cut")
    monkeypatch.setattr(token_stream.TokenWorkers, "submit", stopped)
    with pytest.raises(KeyboardInterrupt):
        token_stream.write(cut)
    monkeypatch.setattr(token_stream.TokenWorkers, "submit", build)
    assert cut.end() is None and cut.part(2).is_dir() and not cut.part(3).is_dir()
    records_of = token_stream.jsonl.records_of
    monkeypatch.setattr(
        token_stream.jsonl,
        "records_of",
        lambda paths, *rest, **names: opened.append(paths[0].name) or records_of(paths, *rest, **names),
    )
    token_stream.write(cut)
    assert opened == ["b.jsonl"], "the first file is not read again"
    assert cached(cut.folder) == cached(whole.folder)
    token_stream.write(cut)
    assert opened == ["b.jsonl"], "all is there"


def test_a_killed_process_and_two_at_once_leave_the_same_cache(stream):
    whole, other = stream("whole"), stream("other", data_workers=2)
    token_stream.write(whole)
    first = Worker()
    thread = threading.Thread(target=_ignoring_failure, args=(first, other))
    thread.start()
    until = time.monotonic() + 30
    while not other.part(0).is_dir() and time.monotonic() < until:
        time.sleep(0.001)
    os.kill(first.pid, signal.SIGKILL)
    thread.join()
    workers = [Worker(), Worker()]
    threads = [threading.Thread(target=worker.call, args=(token_stream.write, other)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for worker in (first, *workers):
        worker.close()
    assert cached(other.folder) == cached(whole.folder)


def _ignoring_failure(worker, stream):
    with pytest.raises(token_stream.token_workers.Failure):
        worker.call(token_stream.write, stream)
        raise token_stream.token_workers.Failure("it was ready first")


def test_a_bad_record_is_raised_where_a_part_is_waited_for(stream):
    one = stream(on_bad_record="raise")
    writer = StreamWriter(one)
    until = time.monotonic() + 30
    with pytest.raises(ConfigError, match=r"a.jsonl:601: not JSON"):
        while writer.at_work() and time.monotonic() < until:
            time.sleep(0.02)


@pytest.mark.parametrize("name", ["end.json", "files.json"])
def test_a_damaged_note_is_named_and_made_anew(stream, capsys, name):
    one = stream()
    token_stream.write(one)
    before = cached(one.folder)
    (one.folder / name).write_text('{"format": 2, "parts": 9, "sha256": "0"}')
    token_stream.write(one)
    if name == "files.json":  # which is read where a part is missing
        _remove(one.part(3))
        token_stream.write(one)
    assert cached(one.folder) == before
    assert f"{one.folder / name}: it differs from what was written" in capsys.readouterr().err


def _remove(folder):
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def test_records_that_are_read_by_number_are_the_same_stream(tmp_path, cfg):
    """And fill-in-the-middle draws by part and document."""
    data = "tinytown:pretrain?documents=1200&held_out=8"
    source = source_spec.parse(data)[0]
    made = cfg(data, objective="fim", data_workers=1)
    found = []
    for name in ("one", "two"):
        one = TokenStream(source, made, None, np.array([3]), KIND, Fim(0.5, 1), tmp_path / name)
        token_stream.write(one)
        found.append(cached(one.folder))
    assert found[0] == found[1]
    assert [len(part) for part in documents(one)] == [511, 512, 176]
    assert one.end()["records"] == 1200
    rearranged = [KIND.fim[0] in np.fromfile(one.part(k) / "ids.bin", np.uint16) for k in range(3)]
    assert all(rearranged)


def test_the_first_records_name_what_is_wrong(tmp_path, cfg):
    paths = [tmp_path / "a.jsonl"]
    made = cfg(write(paths[0], [{"body": "x"}]))
    with pytest.raises(ConfigError, match=r"a.jsonl:1: no field 'text'"):
        token_stream.head(source_spec.parse(made.data)[0], made, paths)
    made = cfg(made.data, on_bad_record="skip")
    with pytest.raises(ConfigError, match=r"no record \(1 bad records skipped\)"):
        token_stream.head(source_spec.parse(made.data)[0], made, paths)
