"""Data sets that cannot be fetched: the message names the command that does it where there is a network."""

import errno
import sys
import types

import pytest
import requests

from jaxtrain.config import ConfigError, Data
from jaxtrain.data import source_spec, sources


def open_all(name, tmp_path):
    (source,) = source_spec.parse(name)
    return sources.whole(source, Data(data=name, cache_dir=str(tmp_path)))


@pytest.fixture
def unprepared(monkeypatch):
    """A data set of TFDS that no folder has; `fault` is what fetching it raises."""
    import tensorflow_datasets as tfds

    fault = []

    class Builder:
        info = types.SimpleNamespace(splits={}, file_format=None)

        def download_and_prepare(self):
            raise fault[0]

    monkeypatch.setattr(tfds, "builder", lambda name, **options: Builder())
    return fault


@pytest.mark.parametrize(
    "fault",
    [
        requests.exceptions.ConnectionError("Max retries exceeded with url: /lm-benchmark"),
        AssertionError("Manual directory /none does not exist"),
        ValueError("Failed to construct dataset"),
        OSError(errno.ECONNRESET, "reset"),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_a_tfds_data_set_that_is_not_here_names_its_fetch(unprepared, tmp_path, fault):
    unprepared.append(fault)
    with pytest.raises(
        ConfigError, match="it is not prepared on this machine, and cannot be fetched"
    ) as refused:
        open_all("tfds:lm1b:1.1.0", tmp_path)
    assert "`tfds build lm1b --file_format=array_record --data_dir=DIR`" in str(refused.value)
    assert str(refused.value).startswith("--data=tfds:lm1b:1.1.0: ") and str(fault.args[-1])[:20] in str(
        refused.value
    )


def test_a_full_disk_is_no_matter_of_fetching(unprepared, tmp_path):
    unprepared.append(OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(ConfigError, match="--cache_dir: no space left") as refused:
        open_all("tfds:lm1b", tmp_path)
    assert "tfds build" not in str(refused.value)


@pytest.fixture
def hub(monkeypatch):
    """The package datasets, whose load_dataset raises `fault`."""
    fault = []

    def load_dataset(*args, **options):
        raise fault[0]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    return fault


def test_a_data_set_of_the_hub_that_is_not_here_names_its_fetch(hub, tmp_path):
    hub.append(ConnectionError("Couldn't reach 'stanfordnlp/imdb' on the Hub (LocalEntryNotFoundError)"))
    with pytest.raises(ConfigError, match="--data=hf:stanfordnlp/imdb: Couldn't reach") as refused:
        open_all("hf:stanfordnlp/imdb", tmp_path)
    assert "`hf download --repo-type=dataset stanfordnlp/imdb --local-dir=DIR`" in str(refused.value)
    assert "'jsonl:DIR/**/*.parquet'" in str(refused.value)


def test_a_configuration_that_there_is_not_is_no_matter_of_fetching(hub, tmp_path):
    hub.append(ValueError("BuilderConfig 'man' not found. Available: ['main', 'socratic']"))
    with pytest.raises(ConfigError, match="Available") as refused:
        open_all("hf:openai/gsm8k?config=man", tmp_path)
    assert "hf download" not in str(refused.value)
