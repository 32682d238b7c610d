"""Every kind of data, its held-out side, and bad input of every kind."""

from pathlib import Path

import numpy as np
import pytest

from jaxtrain.config import ConfigError
from jaxtrain.data import source_spec, sources
from tests.data.corpus import Stories, numbers, opened, prose, text, write


def test_globs_join_files_in_order_and_all_fields_are_kept(cfg, tmp_path):
    prose(tmp_path / "1.jsonl", 5)
    write(
        tmp_path / "2.jsonl",
        [{"text": "hi", "n": 5, "messages": [{"role": "user"}], "deep": {"a": [1, None]}}],
    )
    data = cfg(f"jsonl:{tmp_path}/?.jsonl", eval_data=f"jsonl:{tmp_path}/1.jsonl")
    records, held = opened(data)
    assert held is None and numbers(records) == list(range(6))
    assert records[5] == {"text": "hi", "n": 5, "messages": [{"role": "user"}], "deep": {"a": [1, None]}}
    assert numbers(sources.all_of(source_spec.parse(data.eval_data)[0], data)) == list(range(5))


def test_changed_content_is_read_again(cfg, tmp_path):
    data = cfg(prose(tmp_path / "a.jsonl", 10))
    first, _ = opened(data)
    same, _ = opened(data)
    prose(tmp_path / "a.jsonl", 10, start=100)
    other, _ = opened(data)
    assert first.fingerprint == same.fingerprint != other.fingerprint
    assert min(numbers(other)) >= 100


def test_more_rows_than_the_world_has_is_a_mistake_that_names_the_option(cfg):
    with pytest.raises(ConfigError, match="444 distinct test prompts, held_out=500 asks for more"):
        source = source_spec.parse("tinytown:prompts:test?held_out=500")[0]
        sources.all_of(source, cfg(source.label), {"prompt": str})


def test_held_out_share_is_spread_disjoint_and_stable(cfg, tmp_path):
    records, held = opened(cfg(prose(tmp_path / "a.jsonl", 2000), eval_share=0.1))
    train, out = numbers(records), numbers(held)
    assert sorted(train + out) == list(range(2000)) and not set(train) & set(out)
    assert abs(len(out) - 200) < 45  # 3.3 standard deviations
    assert abs(np.mean(out) - 1000) < 140
    assert records.fingerprint != held.fingerprint
    again, _ = opened(cfg(f"jsonl:{tmp_path}/a.jsonl", eval_share=0.1))
    assert numbers(again) == train


def test_at_least_one_document_on_each_side(cfg, tmp_path):
    source = prose(tmp_path / "a.jsonl", 2)
    for share in (1e-9, 0.5, 0.999999):
        records, held = opened(cfg(source, eval_share=share))
        assert (len(records), len(held)) == (1, 1)
    with pytest.raises(ConfigError, match=r"has 1 document, and one must be held out.*--eval_data"):
        opened(cfg(prose(tmp_path / "b.jsonl", 1)))
    for share in (0.0, 1.0):
        with pytest.raises(ConfigError, match="--eval_share="):
            opened(cfg(source, eval_share=share))


def test_slices_of_a_jsonl_source(cfg, tmp_path):
    source = prose(tmp_path / "a.jsonl", 50)
    data = cfg(f"{source}:train[:80%]", eval_data=f"{source}:train[80%:]")
    assert numbers(opened(data)[0]) == list(range(40))
    assert numbers(sources.all_of(source_spec.parse(data.eval_data)[0], data)) == list(range(40, 50))


def test_the_field_of_one_source(cfg, tmp_path):
    source = write(tmp_path / "a.jsonl", [{"body": "x", "n": i} for i in range(3)])
    with pytest.raises(ConfigError, match="no field 'text'"):
        opened(cfg(source))
    assert len(opened(cfg(f"{source}?field=body"))[0]) == len(opened(cfg(source, text_field="body"))[0]) == 2


def test_tinytown(cfg):
    data = cfg("tinytown:pretrain?documents=50&held_out=10")
    records, held = opened(data)
    assert (len(records), len(held)) == (50, 10) and held.label == "tinytown:pretrain:validation"
    assert (
        isinstance(records[0]["text"], str)
        and isinstance(records[0]["logp"], float)
        and records[0]["logp"] < 0
    )
    other, _ = opened(cfg("tinytown:pretrain?documents=50&held_out=10&seed=1"))
    assert other[0] != records[0] and other.fingerprint != records.fingerprint
    with pytest.raises(ConfigError, match="no field 'text' but answer, family, prompt"):
        opened(cfg("tinytown:prompts"))


@pytest.fixture
def stories(tmp_path, capsys):
    def make(**kwargs):
        folder = tmp_path / "-".join(map(str, ["tf", *kwargs.values()]))
        Stories(data_dir=str(folder), file_format="array_record", **kwargs).download_and_prepare()
        return folder

    return make


def test_tfds_by_folder_and_by_name(cfg, stories):
    folder = stories()
    records, held = opened(cfg(f"tfds:{folder}/stories/1.0.0"))
    assert (len(records), len(held)) == (20, 20) and held.label.endswith(":test")
    assert {r["text"] for _, b in records.blocks() for r in b} == {f"story {i}" for i in range(20)}
    named, _ = opened(cfg(f"tfds:stories?data_dir={folder}"))
    assert named.fingerprint == records.fingerprint
    source_spec.check(cfg(f"tfds:stories:train?data_dir={folder}"))
    part, held = opened(cfg(f"tfds:{folder}/stories/1.0.0:test[:25%]"))
    assert (len(part), len(held)) == (4, 1), "the split that is trained on is not held out again"


def test_tfds_errors_name_the_remedy(cfg, stories):
    folder = stories() / "stories" / "1.0.0"
    with pytest.raises(ConfigError, match="no split 'dev'; it has"):
        opened(cfg(f"tfds:{folder}:dev"))
    with pytest.raises(
        ConfigError, match="no field 'body' but label, text; name the right one with --text_field"
    ):
        opened(cfg(f"tfds:{folder}", text_field="body"))
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(ConfigError, match=r"prepared as tfrecord .*file_format='array_record'"):
        opened(cfg(f"tfds:{folder}"))
    odd = stories(splits=("one", "two")) / "stories" / "1.0.0"
    with pytest.raises(ConfigError, match="no split train but one, two; name one"):
        opened(cfg(f"tfds:{odd}"))


def test_hf(cfg, tmp_path):
    pytest.importorskip("datasets")
    folder = tmp_path / "set"
    folder.mkdir()
    prose(folder / "train.jsonl", 30)
    prose(folder / "test.jsonl", 6, start=100)
    records, held = opened(cfg(f"hf:{folder}"))
    assert (len(records), len(held)) == (30, 6)
    assert records[3] == {"text": text(3), "n": 3}
    part, _ = opened(cfg(f"hf:{folder}:train[:50%]"))
    assert numbers(part) == list(range(15)) and part.fingerprint != records.fingerprint
    with pytest.raises(ConfigError, match="no field 'body' but n, text"):
        opened(cfg(f"hf:{folder}", text_field="body"))
    with pytest.raises(ConfigError, match="it has"):
        opened(cfg(f"hf:{folder}:dev"))
    with pytest.raises(ConfigError, match="--data=hf:"):
        opened(cfg(f"hf:{tmp_path}/nowhere"))


def test_records_are_what_tfds_itself_decodes(cfg, stories):
    import tensorflow_datasets as tfds

    data = cfg("tinytown:pretrain?documents=40&held_out=10")
    records, _ = opened(data)
    (folder,) = (Path(data.cache_dir) / "tinytown").glob("pretrain-*/1.0.0")
    plain = tfds.builder_from_directory(str(folder)).as_data_source(split="train")
    assert records.many(range(40)) == [
        {"text": r["text"].decode(), "logp": float(r["logp"])} for r in plain.__getitems__(range(40))
    ]
    folder = stories() / "stories" / "1.0.0"
    wanted = sources.train_and_held_out(
        source_spec.parse(f"tfds:{folder}")[0], cfg(f"tfds:{folder}"), {"text": str, "label": int}
    )[0]
    plain = tfds.builder_from_directory(str(folder)).as_data_source(split="train")
    assert wanted.many(range(20)) == [
        {"text": r["text"].decode(), "label": int(r["label"])} for r in plain.__getitems__(range(20))
    ]
