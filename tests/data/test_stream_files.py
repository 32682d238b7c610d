"""The files that --streaming reads one after another: of the Hub, of a split, and what is read by number instead."""

import json

import pytest

from jaxtrain.config import ConfigError
from jaxtrain.data import source_spec, stream_files, streaming, token_stream
from jaxtrain.files import fetch_in_order
from tests.data.corpus import prose
from tests.hub import hub  # noqa: F401

ROWS = {"streaming": True, "seq_len": 64, "batch_size": 4, "tokenizer": "byte", "data_workers": 1}


def files_of(cfg, data, flag="data"):
    made = cfg(data, **ROWS)
    return stream_files.of_source(source_spec.parse(data)[0], made, flag)


def batch(data, i=9):
    return data.train.batch(i)["tokens"].tolist()


@pytest.fixture
def folder(tmp_path):
    """A data set of two files to train on, and one that is held out."""
    folder = tmp_path / "set"
    folder.mkdir()
    prose(folder / "train-0.jsonl", 60)
    prose(folder / "train-1.jsonl", 60, 60)
    prose(folder / "validation-0.jsonl", 20, 500)
    return folder


@pytest.fixture
def repository(folder, hub, monkeypatch):  # noqa: F811
    """The same as a repository of the Hub, whose name this is."""
    datasets = pytest.importorskip("datasets")
    from huggingface_hub import constants

    hub.add("datasets/org/name", folder)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # other modules of these tests set it
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", constants.ENDPOINT)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", constants.ENDPOINT)  # of the process that writes the parts
    return "org/name"


def test_a_data_set_of_the_hub_is_fetched_file_by_file(cfg, folder, repository, monkeypatch):
    """The rows are those of its files, which are fetched when they are read; those of its own split are held out."""
    fetched, real = [], fetch_in_order._download
    monkeypatch.setattr(fetch_in_order, "_download", lambda a, b: (fetched.append(a.name), real(a, b)))
    monkeypatch.setattr(token_stream, "_HEAD_BYTES", 1_000)
    data = streaming.prepare(cfg(f"hf:{repository}", **ROWS), seed=0)
    assert fetched == ["train-0.jsonl"]
    named = f"jsonl:{folder}/train-*.jsonl"
    local = streaming.prepare(cfg(named, eval_data=f"jsonl:{folder}/validation-0.jsonl", **ROWS), seed=0)
    assert [batch(data, i) for i in (0, 40, 400)] == [batch(local, i) for i in (0, 40, 400)]
    assert len(data.eval) == len(local.eval)
    assert (data.eval.batch(0)["tokens"] == local.eval.batch(0)["tokens"]).all()
    again = streaming.prepare(cfg(f"hf:{repository}", **ROWS), seed=0)
    assert again.fingerprints == data.fingerprints and set(data.eval_by_source) == {"name"}


def test_only_the_split_that_is_evaluated_is_fetched(cfg, folder, repository, hub):  # noqa: F811
    config = cfg(f"jsonl:{folder}/train-0.jsonl", eval_data=f"hf:{repository}:validation", **ROWS)
    data = streaming.prepare(config, seed=0)
    assert len(data.eval) > 0
    assert {name for name in hub.downloads() if name.endswith(".jsonl")} == {"validation-0.jsonl"}


def test_the_splits_are_those_of_the_card_or_of_the_file_names(cfg, folder):
    pytest.importorskip("datasets")
    found = files_of(cfg, f"hf:{folder}")
    assert [path.name for path in found.of("train")] == ["train-0.jsonl", "train-1.jsonl"]
    assert [path.name for path in found.of("validation+train")][:2] == ["validation-0.jsonl", "train-0.jsonl"]
    configs = [{"config_name": "small", "data_files": [{"split": "few", "path": "train-1.jsonl"}]}]
    (folder / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")
    found = files_of(cfg, f"hf:{folder}?config=small")
    assert {split: [path.name for path in one] for split, one in found.splits.items()} == {
        "few": ["train-1.jsonl"]
    }
    with pytest.raises(ConfigError, match=r"--data=hf:.*: no split 'dev'; it has few"):
        streaming.prepare(cfg(f"hf:{folder}:dev?config=small", **ROWS), seed=0)
    with pytest.raises(ConfigError, match=r"--data=hf:.*other"):
        files_of(cfg, f"hf:{folder}?config=other")


def test_files_that_the_library_reads_by_its_defaults_are_read_in_order(cfg, tmp_path):
    pytest.importorskip("datasets")
    import pyarrow
    from pyarrow import parquet

    contents = {"csv": "text,n\none,1\n", "json": '[{"text": "one"}]', "jsonl": '{"text": "one"}\n'}
    for kind in (*contents, "parquet", "arrow"):
        folder = tmp_path / kind
        folder.mkdir()
        file, table = folder / f"train.{kind}", pyarrow.table({"text": ["one"]})
        if kind == "parquet":
            parquet.write_table(table, file)
        elif kind == "arrow":
            with pyarrow.ipc.new_stream(str(file), table.schema) as writer:
                writer.write_table(table)
        else:
            file.write_text(contents[kind])
        found = files_of(cfg, f"hf:{folder}")
        assert found is not None and found.of("train") == [file]
        head = token_stream.head(source_spec.parse(f"hf:{folder}")[0], cfg("", **ROWS), found.of("train"))
        assert head[0]["text"] == "one"


@pytest.mark.parametrize(
    ("name", "content", "card", "why"),
    [
        ("a.txt", "one\ntwo\nthree\n", {}, "they are text files"),
        ("a.csv", "text;n\none two;1\nthree;2\n", {"sep": ";"}, "they are read with sep"),
    ],
)
def test_what_only_the_library_reads_is_read_by_number(cfg, tmp_path, caplog, name, content, card, why):
    pytest.importorskip("datasets")
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / name).write_text(content)
    configs = [{"config_name": "default", "data_files": name, **card}]
    (folder / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")
    with caplog.at_level("WARNING", logger="absl"):
        assert files_of(cfg, f"hf:{folder}") is None
    assert f"--data=hf:{folder}: its files cannot be read one after another ({why})" in caplog.text
    data = streaming.prepare(cfg(f"hf:{folder}", eval_share=0.4, **ROWS), seed=0)
    held, train = (
        data.tokenizer.decode(side.batch(0)["tokens"][0].tolist()) for side in (data.eval, data.train)
    )
    assert {"one", "three"} & set(f"{held} {train}".split()) and ";" not in held + train


def test_a_slice_of_a_split_is_read_by_number(cfg, tmp_path):
    """And nothing outside of it is."""
    source = prose(tmp_path / "a.jsonl", 300)
    assert files_of(cfg, f"{source}:train[:10%]") is None
    data = streaming.prepare(cfg(f"{source}:train[:10%]", **ROWS), seed=0)
    rows = [row for i in range(20) for row in data.train.batch(i)["tokens"].tolist()]
    found = " ".join(data.tokenizer.decode(row) for row in rows)
    begun = {int(word[:-1]) for word in found.split() if word[:-1].isdigit() and word.endswith(":")}
    assert len(begun) > 20 and max(begun) < 30


def test_the_fingerprint_follows_the_content_and_not_the_name(cfg, tmp_path):
    marks = []
    for name, start in (("a.jsonl", 0), ("b.jsonl", 0), ("c.jsonl", 1)):
        files = files_of(cfg, prose(tmp_path / name, 50, start))
        marks.append(files.fingerprint(files.of("train")))
    assert marks[0] == marks[1] != marks[2]
