"""The flags of the filter: what they refuse, and how the library reads its data."""

import pytest

from jaxtrain.apps.filters.config import Filter, FilterSource, FilterWork
from jaxtrain.config import ConfigError, Reading


def test_weights_of_the_data_are_refused():
    FilterSource(data="jsonl:corpus/*.jsonl")
    with pytest.raises(ConfigError, match=r"--data=tinytown:sft\*2.*leave out the weights"):
        FilterSource(data="tinytown:sft*2")


def test_slurm_needs_a_partition():
    FilterWork(executor="slurm", slurm_partition="cpu")
    with pytest.raises(ConfigError, match="--slurm_partition"):
        FilterWork(executor="slurm")


def test_broken_records_are_skipped_and_listed():
    cfg = Filter(source=FilterSource(data="jsonl:a.jsonl", text_field="body", cache_dir="/c"))
    dialogs = cfg.dialogs_config()
    assert (dialogs.data, dialogs.text_field, dialogs.cache_dir) == ("jsonl:a.jsonl", "body", "/c")
    assert dialogs.on_bad_record == "skip" and cfg.dialogs_config("jsonl:b.jsonl").data == "jsonl:b.jsonl"
    strict = Filter(reading=Reading(on_bad_record="raise", max_line_mb=3, max_expansion=7.0)).dialogs_config()
    assert (strict.on_bad_record, strict.max_line_mb, strict.max_expansion) == ("raise", 3, 7.0)
