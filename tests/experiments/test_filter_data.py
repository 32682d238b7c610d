"""The filter's command: what it prints and refuses, and a run that trains on what it kept."""

import json

import pytest

from experiments import filter_data
from jaxtrain import flags as command_line
from jaxtrain.config import ConfigError
from jaxtrain.data.quality.settings import Filter
from tests.experiments.conftest import MODEL, call, jsonl, prose, quick


def test_what_is_kept_is_trained_on_with_its_fingerprint(tmp_path, capsys):
    texts = prose(80)
    data = jsonl(tmp_path / "a.jsonl", [{"text": text} for text in [*texts, *texts[:20]]])
    cache = f"--cache_dir={tmp_path / 'cache'}"
    flags = [f"--data={data}", f"--out={tmp_path / 'clean'}", cache, "--workers=1", "--near=off"]
    cfg = command_line.from_flags(Filter, flags)
    filter_data.main(cfg)
    said = capsys.readouterr().out
    report = json.loads((tmp_path / "clean" / "report.json").read_text())
    assert f"{report['kept']:,} kept" in said and "train on it: --data=filtered:" in said
    assert (
        report["read"] == 100 == report["kept"] + report["rejected"]
        and report["steps"]["exact"]["dropped"] >= 20
    )
    assert (tmp_path / "clean" / "report.html").read_text().startswith("<!doctype html>")
    filter_data.main(cfg)  # a finished folder is shown again
    assert f"{report['kept']:,} kept" in capsys.readouterr().out
    with quick():
        said = call(
            "pretrain", f"--data=filtered:{tmp_path / 'clean'}", f"--model={MODEL}", cache, "--tokenizer=bpe:300",
            "--steps=3", "--warmup=1", "--seq_len=32", "--batch_size=8", "--eval_batches=1", "--eval_share=0.2",
            f"--workdir={tmp_path / 'run'}",
        )  # fmt: skip
    held = json.loads((tmp_path / "run" / "config.json").read_text())
    assert held["config"]["data"]["data"] == f"filtered:{tmp_path / 'clean'}" and held["data"]["data"]
    assert "finished 3 steps" in said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "--data and --out"),
        (("--data=jsonl:none.jsonl", "--out=x"), "none.jsonl"),
        (("--pii=no",), "--pii=no"),
    ],
)
def test_what_cannot_be_is_refused(flags, message):
    with pytest.raises(ConfigError, match=message):
        filter_data.main(command_line.from_flags(Filter, list(flags)))
