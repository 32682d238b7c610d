"""Nothing is lost and nothing is counted twice, whatever comes in and whenever the run is killed."""

import pytest

from jaxtrain.apps.filters import run, steps
from jaxtrain.config import ConfigError
from jaxtrain.data import filtered, source_spec, sources
from tests.apps.filters import filtering
from tests.data.corpus import prose


def test_a_run_that_fails_in_mid_shard_goes_on_and_counts_nothing_twice(tmp_path, monkeypatch):
    source, flags = prose(tmp_path / "a.jsonl", 100), ("--shard=20",)
    whole = filtering.run(source, tmp_path / "whole", *flags)
    opened, read = steps.FilterPipeline._open, []

    def fails(self, name, record):
        read.append(name)
        if record["n"] == 67 and len(read) == 68:
            raise OSError("the machine went away")
        return opened(self, name, record)

    monkeypatch.setattr(steps.FilterPipeline, "_open", fails)
    with pytest.raises(OSError, match="went away"):
        filtering.run(source, tmp_path / "out", *flags)
    assert not filtered.read_report(tmp_path / "out")
    again = filtering.run(source, tmp_path / "out", *flags)
    assert len(read) == 68 + 40, "three finished shards are not read again"
    assert again[1:] == whole[1:]
    assert again[0]["fingerprint"] == whole[0]["fingerprint"]


@pytest.mark.parametrize("step", ["_write_rejected", "_move_kept"])
def test_a_kill_at_the_end_loses_nothing(tmp_path, monkeypatch, step):
    source = prose(tmp_path / "a.jsonl", 60)
    real = getattr(run, step)

    def killed(*args):
        real(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run, step, killed)
        with pytest.raises(KeyboardInterrupt):
            filtering.run(source, tmp_path / "out", "--shard=20")
    report, _, _ = filtering.run(source, tmp_path / "out", "--shard=20")
    assert report["read"] == 60


def test_training_reads_what_was_kept_with_its_fingerprint(tmp_path):
    source = prose(tmp_path / "a.jsonl", 40)
    report, kept, _ = filtering.run(source, tmp_path / "out", "--shard=15")
    cfg = filtering.config(source, tmp_path / "x").dialogs_config(f"filtered:{tmp_path}/out")
    records = sources.whole(source_spec.parse(cfg.data)[0], cfg)
    assert [one for _, block in records.blocks() for one in block] == kept
    source_spec.check_sources(cfg.data, cfg, "data")
    filtering.run(source, tmp_path / "other", "--shard=15", "--max_chars=60")
    other = filtering.config(source, tmp_path / "x").dialogs_config(f"filtered:{tmp_path}/other")
    assert sources.whole(source_spec.parse(other.data)[0], other).fingerprint != records.fingerprint
    part = tmp_path / "out" / report["files"][0]["file"]
    part.write_bytes(part.read_bytes().replace(b"whale", b"snail"))
    with pytest.raises(ConfigError, match=r"filtered:.*changed since it was written; filter again"):
        sources.whole(source_spec.parse(cfg.data)[0], cfg)
    with pytest.raises(ConfigError, match=r"holds no report.json.*filter_data"):
        source_spec.check_sources(f"filtered:{tmp_path}", cfg, "data")


def test_a_run_that_keeps_nothing_has_a_report_and_training_refuses_it(tmp_path):
    source = prose(tmp_path / "a.jsonl", 5)
    report, kept, _ = filtering.run(source, tmp_path / "out", "--max_chars=1")
    assert report["read"] == 5 and not kept
    with pytest.raises(ConfigError, match="accepted no document"):
        filtered.files_of(str(tmp_path / "out"), "data", tmp_path)
