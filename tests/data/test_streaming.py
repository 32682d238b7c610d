"""Data of runs that train while they are tokenised: what is held out, the tokenizer, mixtures, objectives, resuming."""

import dataclasses
import json
import lzma
import subprocess
import sys

import numpy as np
import pytest

from jaxtrain.config import ConfigError
from jaxtrain.data import bad_records, pipeline, streaming, token_stream
from jaxtrain.files import fetch_in_order, paths
from tests import buckets
from tests.data.corpus import prose, text, write
from tests.hub import hub  # noqa: F401


def made(cfg, data, **changes):
    options = {"streaming": True, "seq_len": 64, "batch_size": 4, "tokenizer": "byte", "data_workers": 1}
    return streaming.prepare(cfg(data, **(options | changes)), seed=0)


def texts(stream, numbers, kind):
    """The text in the rows of batches."""
    return " ".join(kind.decode(row) for i in numbers for row in stream.batch(i)["tokens"].tolist())


def test_held_out_documents_are_of_the_first_records_and_in_no_row(cfg, tmp_path):
    data = made(cfg, prose(tmp_path / "a.jsonl", 700), eval_share=0.05)
    held = {
        part.partition(":")[0] for part in texts(data.eval, range(len(data.eval)), data.tokenizer).split()
    }
    found = texts(data.train, range(1200), data.tokenizer)
    numbers = {int(word[:-1]) for word in found.split() if word[:-1].isdigit() and word.endswith(":")}
    held = {int(word) for word in held if word.isdigit()} & set(range(700))
    assert len(held - numbers) > 10 and len(numbers) > 600
    lines = [line for _, line in data.table]
    assert any("of the first 8,192 documents are held out" in line for line in lines)


def test_a_resumed_run_and_several_hosts_have_the_same_batches(cfg, tmp_path):
    source = prose(tmp_path / "a.jsonl", 1300)
    first = made(cfg, source, tokenizer="bpe:300")
    batches = {i: first.train.batch(i) for i in (0, 3, 90, 500)}
    again = made(cfg, source, tokenizer="bpe:300")
    assert again.fingerprints == first.fingerprints
    for i in (500, 0):
        assert all((again.train.batch(i)[name] == column).all() for name, column in batches[i].items())
    config = cfg(source, streaming=True, seq_len=64, batch_size=4, tokenizer="bpe:300", data_workers=1)
    half = streaming.prepare(config, seed=0, local_rows=lambda rows: np.arange(rows // 2, rows))
    assert (half.train.batch(90)["tokens"] == batches[90]["tokens"][2:]).all()
    assert any("all is tokenised" in line for _, line in again.table)


def test_a_file_under_another_name_is_the_same_stream_and_another_content_is_not(cfg, tmp_path):
    marks = [made(cfg, prose(tmp_path / name, 100, start)).fingerprints["data"]
             for name, start in (("a.jsonl", 0), ("b.jsonl", 0), ("c.jsonl", 1))]  # fmt: skip
    assert marks[0] == marks[1] != marks[2]


@pytest.mark.parametrize("objective", ["masked", "fim"])
def test_other_objectives(cfg, tmp_path, objective):
    data = made(cfg, prose(tmp_path / "a.jsonl", 300), objective=objective)
    batch, tokens = data.train.batch(2), data.tokenizer
    if objective == "masked":
        assert (batch["tokens"] == tokens.mask).any() and 0 < batch["mask"].mean() < 0.5
    else:
        assert any(tokens.fim[1] in data.train.batch(i)["tokens"] for i in range(5))


def test_mixtures_by_weight_and_by_step(cfg, tmp_path):
    a, b = prose(tmp_path / "a.jsonl", 300), write(tmp_path / "b.jsonl", [{"text": "zzzz zzzz"}] * 300)
    even = made(cfg, f"{a}*0.5,{b}*0.5")
    shares = [np.mean([ord("z") in row for row in even.train.batch(i)["tokens"]]) for i in range(20)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.1)
    steps = made(cfg, f"{a}*1@0,{b}*0@0,{a}*0@5,{b}*1@5")
    assert [all(ord("z") in row for row in steps.train.batch(i)["tokens"]) for i in (4, 5)] == [False, True]
    assert set(even.eval_by_source) == {"a", "b"}


def test_data_with_a_split_of_its_own_hold_that_out(cfg):
    source = "tinytown:pretrain?documents=600&held_out=16"
    data = made(cfg, source)
    whole = pipeline.prepare(cfg(source, seq_len=64, batch_size=4, tokenizer="byte"), seed=0)
    assert data.fingerprints["eval_data"] == whole.fingerprints["eval_data"]
    assert data.fingerprints["data"] != whole.fingerprints["data"]
    assert data.train.batch(3)["tokens"].shape == (4, 64)


def test_parquet_and_compressed_files_take_the_same_path(cfg, tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [text(i) for i in range(400)]
    parquet.write_table(arrow.table({"text": rows}), tmp_path / "a.parquet", row_group_size=64)
    lines = prose(tmp_path / "a.jsonl", 400)
    (tmp_path / "a.xz").write_bytes(lzma.compress((tmp_path / "a.jsonl").read_bytes()))
    found = [made(cfg, one).train.batch(7)["tokens"]
             for one in (lines, f"jsonl:{tmp_path}/a.parquet", f"jsonl:{tmp_path}/a.xz")]  # fmt: skip
    assert (found[0] == found[1]).all() and (found[0] == found[2]).all()


def test_what_is_wrong_with_later_records_ends_the_run(cfg, tmp_path):
    source = prose(tmp_path / "a.jsonl", 9_000)
    with open(tmp_path / "a.jsonl", "a", encoding="utf-8") as file:
        file.write("broken\n")
    data = made(cfg, source)
    with pytest.raises(ConfigError, match=r"a.jsonl:9001: not JSON"):
        data.train.batch(100_000)


def test_other_held_out_data(cfg, tmp_path):
    a, b = prose(tmp_path / "a.jsonl", 100), prose(tmp_path / "b.jsonl", 50, 5_000)
    config = cfg(a, streaming=True, seq_len=64, batch_size=4, tokenizer="byte", eval_data=b)
    data = streaming.prepare(config, seed=0)
    assert (
        data.fingerprints["eval_data"]
        == (pipeline.prepare(dataclasses.replace(config, streaming=False), seed=0).fingerprints["eval_data"])
    )


WAITS = """
import json, sys, time
from jaxtrain.config import Corpus
from jaxtrain.data import streaming, token_stream
token_stream._in_worker = lambda stream, only: time.sleep(600)  # a writer that comes to nothing
batches = streaming.prepare(Corpus(**json.loads(sys.argv[1])), seed=0).train.iterate()
import threading
threading.Thread(target=lambda: next(batches), daemon=True).start()
time.sleep(0.5)
print("the main program ends", flush=True)
"""


def test_a_process_ends_while_its_loader_waits_for_a_part(cfg, tmp_path):
    config = cfg(prose(tmp_path / "a.jsonl", 100), streaming=True, tokenizer="byte", data_workers=1)
    command = [sys.executable, "-c", WAITS, json.dumps(dataclasses.asdict(config))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout == "the main program ends\n" and done.returncode == 0, done.stderr


def test_files_of_a_bucket_are_fetched_one_after_another(cfg, tmp_path, monkeypatch):
    """The batches are those of the files on this machine, and at the start one of them is fetched."""
    with buckets.gcs() as environment, buckets.in_process(environment):
        folder = paths.parse(f"gs://{buckets.BUCKET}/corpus", "data")
        for k in range(4):
            prose(tmp_path / f"{k}.jsonl", 300, 300 * k)
            (folder / f"{k}.jsonl").write_bytes((tmp_path / f"{k}.jsonl").read_bytes())
        fetched, real = [], fetch_in_order._download
        monkeypatch.setattr(fetch_in_order, "_download", lambda a, b: (fetched.append(a.name), real(a, b)))
        monkeypatch.setattr(token_stream, "_HEAD_BYTES", 1_000)
        bucket = made(cfg, f"jsonl:{folder}/*.jsonl", eval_data=f"jsonl:{tmp_path}/0.jsonl")
        assert fetched == ["0.jsonl"]
        local = made(cfg, f"jsonl:{tmp_path}/*.jsonl", eval_data=f"jsonl:{tmp_path}/0.jsonl")
        for i in (0, 40, 400):
            assert (bucket.train.batch(i)["tokens"] == local.train.batch(i)["tokens"]).all()
        again = made(cfg, f"jsonl:{folder}/*.jsonl", eval_data=f"jsonl:{tmp_path}/0.jsonl")
        assert again.fingerprints == bucket.fingerprints
        assert not [path for path in (tmp_path / "cache").rglob("*.jsonl") if "remote" in path.parts]
        (folder / "3.jsonl").write_text('{"text": "another"}\n')
        changed = made(cfg, f"jsonl:{folder}/*.jsonl", eval_data=f"jsonl:{tmp_path}/0.jsonl")
        assert changed.fingerprints["data"] != bucket.fingerprints["data"]


def test_a_bad_record_of_a_bucket_is_named_by_its_address(cfg, tmp_path):
    with buckets.gcs() as environment, buckets.in_process(environment):
        folder = paths.parse(f"gs://{buckets.BUCKET}/corpus", "data")
        prose(tmp_path / "a.jsonl", 40)
        (folder / "a.jsonl").write_text((tmp_path / "a.jsonl").read_text() + "broken\n")
        with pytest.raises(ConfigError, match=r"gs://bucket/corpus/a.jsonl:41: not JSON"):
            made(cfg, f"jsonl:{folder}/a.jsonl")
        data = made(cfg, f"jsonl:{folder}/a.jsonl", on_bad_record="skip")
        data.train.batch(50)
        (listed,) = (tmp_path / "cache").rglob(f"*.stream/{bad_records.LISTED}")
        assert json.loads(listed.read_text())["where"] == "gs://bucket/corpus/a.jsonl:41"


def test_files_of_the_hub_are_read_as_those_of_a_bucket(cfg, tmp_path, monkeypatch, hub):  # noqa: F811
    constants = pytest.importorskip("huggingface_hub.constants")
    folder = tmp_path / "set"
    folder.mkdir()
    prose(folder / "train-0.jsonl", 60)
    prose(folder / "train-1.jsonl", 60, 60)
    hub.add("datasets/org/name", folder)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # other modules of these tests set it
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", constants.ENDPOINT)  # of the process that writes the parts
    found = made(cfg, "jsonl:hf://datasets/org/name/train-*.jsonl")
    local = made(cfg, f"jsonl:{folder}/train-*.jsonl")
    assert (found.train.batch(9)["tokens"] == local.train.batch(9)["tokens"]).all()
    whole = pipeline.prepare(
        cfg("jsonl:hf://datasets/org/name/train-*.jsonl", seq_len=64, batch_size=4, tokenizer="byte"), seed=0
    )
    assert whole.train.batch(0)["tokens"].shape == (4, 64)
    with pytest.raises(ConfigError, match=r"hf://datasets/org/none/\*: there is no such .*`hf auth login`"):
        made(cfg, "jsonl:hf://datasets/org/none/*")
    with pytest.raises(ConfigError, match="write hf://datasets/ORG/NAME/FILES"):
        made(cfg, "jsonl:hf://org/name/*")
    with pytest.raises(ConfigError, match=r"--workdir=hf://datasets/a/b: hf:// names files of data"):
        paths.parse("hf://datasets/a/b", "workdir")
