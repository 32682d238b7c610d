"""Fields and groups: JSON, what may differ when a run resumes, bounds, and whose path and error a bucket's are."""

import json

import pytest

from experiments.pretrain import Pretrain
from jaxtrain import config, flags
from jaxtrain.config import ConfigError
from tests.test_flags import read


def test_json_round_trip():
    cfg = read("lr=0.25", "model=nano", "objective=fim", "fim_rate=0.9", "eval_every=7", "ema=0.5")
    assert flags.from_dict(Pretrain, json.loads(config.dumps(config.to_dict(cfg)))) == cfg
    held = config.to_dict(cfg)
    held["optim"]["speed"] = held["optim"].pop("lr")
    with pytest.raises(ConfigError, match=r"another version: unknown \['speed'\], missing \['lr'\]"):
        flags.from_dict(Pretrain, held)


def test_only_flags_that_are_not_live_keep_a_run_from_resuming():
    old = config.to_dict(read("lr=0.1"))
    assert config.difference(old, read("lr=0.2", "eval_every=3", "microbatches=2", "dtype=bfloat16")) == [
        "--lr: 0.1 -> 0.2"
    ]
    del old["data"]["seq_len"]  # a run from before the flag had its default
    assert config.difference(old, read("lr=0.1")) == []
    assert config.difference(old, read("lr=0.1", "seq_len=64")) == ["--seq_len: 128 -> 64"]


def test_a_seed_has_32_bits():
    assert read(f"seed={config.SEED_MAX}").run.seed == config.SEED_MAX
    with pytest.raises(ConfigError, match=r"--seed=4294967296: must be at most 4,294,967,295"):
        read("seed=4294967296")


def test_what_is_of_a_bucket():
    assert config.is_remote("gs://b/x") and config.is_remote("s3://b") and not config.is_remote("/gs:/b")
    error = type("HttpError", (Exception,), {"__module__": "gcsfs.retry"})()
    assert config.is_bucket_error(error) and not config.is_bucket_error(ValueError())
