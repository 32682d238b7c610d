"""Held-out records of which none can be used."""

import json

import numpy as np
import pytest

from jaxtrain.config import ConfigError, Corpus, Dialogs
from jaxtrain.data import dialogs, held_out, pipeline, preferences, source_spec, sources
from jaxtrain.data.chat import load_template
from jaxtrain.data.tokenizer import ByteTokenizer
from jaxtrain.distillation import logprob_data

COUNT, SHARE = 40, 0.1
TOKEN = {"token": "5", "logprob": -0.1, "bytes": [53], "top_logprobs": []}
STORED = {
    "message": {"role": "assistant", "content": "5"},
    "finish_reason": "stop",
    "logprobs": {"content": [TOKEN]},
}
GOOD = {
    "pretrain": lambda i: {"text": f"text {i}"},
    "sft": lambda i: {"prompt": f"{i}?", "completion": "yes"},
    "dpo": lambda i: {"prompt": f"{i}?", "chosen": "yes", "rejected": "no"},
    "distill": lambda i: {"input": [{"role": "user", "content": f"{i}?"}], "choices": [STORED]},
}
BAD = {
    "pretrain": {"text": " "},
    "sft": {"prompt": 5, "completion": "yes"},
    "dpo": {"prompt": "?", "chosen": "same", "rejected": "same"},
    "distill": {"input": 5, "choices": [STORED]},
}


def prepared(stage, path, cache, **options):
    kind = Corpus if stage == "pretrain" else Dialogs
    options = {"eval_share": SHARE, "on_bad_record": "skip", "seq_len": 32, "batch_size": 2} | options
    cfg = kind(data=f"jsonl:{path}", cache_dir=str(cache), **options)
    tokenizer = ByteTokenizer()
    if stage == "pretrain":
        return pipeline.prepare(cfg, seed=0, tokenizer=tokenizer)
    make = {"sft": dialogs, "dpo": preferences, "distill": logprob_data}[stage].prepare
    return make(cfg, seed=0, tokenizer=tokenizer, template=load_template("plain", tokenizer))


def chosen():
    """The numbers of the records that are held out, and all in the order in which more would be."""
    order = np.argsort(sources.hash_of(np.arange(COUNT)))
    least = sources.hash_of(np.arange(COUNT)) < SHARE * 2.0**64
    return [int(i) for i in order if least[i]], order.tolist()


@pytest.mark.parametrize("stage", GOOD)
def test_more_are_held_out_where_all_are_bad(tmp_path, stage):
    held, order = chosen()
    rows = [BAD[stage] if i in held else GOOD[stage](i) for i in range(COUNT)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = prepared(stage, tmp_path / "a.jsonl", tmp_path / "cache")
    count = 2 * len(held)
    lines = [f"{name}: {line}" for name, line in data.table]
    note = f"none of the {len(held)} records held out can be used: {count} are held out"
    assert sum(note in line for line in lines) == 1 and next(x for x in lines if note in x).startswith(
        "held out"
    )
    texts = [
        row for batch in data.eval.iterate() for row in batch["tokens"].reshape(-1, batch["tokens"].shape[-1])
    ]
    whole = b"".join(bytes(row[row < 256].astype(np.uint8)) for row in texts).decode(errors="ignore")
    expected = {i for i in order[:count] if i not in held}
    names = {i for i in range(COUNT) if (f"text {i}" if stage == "pretrain" else f"{i}?") in whole}
    assert expected <= names and all(any(str(i) in str(j) for j in expected) for i in names)


def test_usable_records_are_held_out_as_ever(tmp_path):
    held, _ = chosen()
    assert len(held) > 1
    for name, bad in (("all", ()), ("one", held[:1])):
        rows = [BAD["sft"] if i in bad else GOOD["sft"](i) for i in range(COUNT)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        data = prepared("sft", tmp_path / f"{name}.jsonl", tmp_path / "cache")
        assert not any("none of the" in line for _, line in data.table)
        cfg = Dialogs(
            data=f"jsonl:{tmp_path}/{name}.jsonl", cache_dir=str(tmp_path / "cache"), eval_share=SHARE
        )
        train, theirs = sources.train_and_held_out(source_spec.parse(cfg.data)[0], cfg, None)
        assert theirs.index.tolist() == sorted(held) and len(train) == COUNT - len(held)


def test_where_half_do_not_help_it_says_so_and_named_data_are_as_they_are(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(BAD["sft"]) + "\n" for _ in range(COUNT)))
    _, order = chosen()
    rows = [BAD["sft"] if i in order[: COUNT // 2] else GOOD["sft"](i) for i in range(COUNT)]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(
        held_out.NoneUsable, match=r"b\.jsonl: no conversation left of 20: .*half of the records"
    ):
        prepared("sft", tmp_path / "b.jsonl", tmp_path / "cache")
    with pytest.raises(ConfigError, match=r"--eval_data=jsonl:.*a\.jsonl: no conversation left of 40: "):
        prepared("sft", tmp_path / "b.jsonl", tmp_path / "cache", eval_data=f"jsonl:{tmp_path}/a.jsonl")
    with pytest.raises(ConfigError, match=r"--data=jsonl:.*a\.jsonl: no conversation left"):
        prepared("sft", tmp_path / "a.jsonl", tmp_path / "cache")
