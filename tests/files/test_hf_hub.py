"""hf:NAME against a local stand-in for the Hub: what is downloaded, pinned, pushed, and what errors say."""

import json

import pytest
from absl import logging

from jaxtrain.config import ConfigError, Failure
from jaxtrain.files import hf_hub
from tests.hub import hub, set_endpoint  # noqa: F401


@pytest.fixture
def repository(hub, tmp_path):  # noqa: F811
    """org/model: weights in two files of an index, and much that is not needed."""
    folder = tmp_path / "repository"
    (folder / "onnx").mkdir(parents=True)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    files = {
        "config.json": "{}", "generation_config.json": "{ }", "tokenizer.json": "{  }", "tokenizer.model": "x",
        "chat_template.jinja": "{{ x }}", "model.safetensors.index.json": json.dumps(index),
        "model-00001-of-00002.safetensors": "1", "model-00002-of-00002.safetensors": "2",
        "consolidated.safetensors": "all", "pytorch_model.bin": "old", "README.md": "#", "onnx/model.onnx": "o",
    }  # fmt: skip
    for name, text in files.items():
        (folder / name).write_text(text)
    hub.add("org/model", folder)
    (folder / "config.json").write_text('{"of": "v2"}')
    hub.add("org/model", folder, "v2")
    return hub


SMALL = {
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer.model", "chat_template.jinja",
    "model.safetensors.index.json",
}  # fmt: skip
WEIGHTS = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}


def test_the_files_that_are_needed_are_downloaded_once_and_the_weights_when_they_are_read(repository):
    found = hf_hub.locate("hf:org/model", "init_from")
    assert set(repository.downloads()) == SMALL
    assert (
        found.hub == f"org/model@{repository.sha('org/model', 'main')}" and found.origin == f"hf:{found.hub}"
    )
    folder = hf_hub.with_weights(found)
    assert folder == found.path and (folder / "model-00002-of-00002.safetensors").read_text() == "2"
    assert sorted(repository.downloads()) == sorted(SMALL | WEIGHTS)
    assert hf_hub.locate("hf:org/model", "init_from") == found and hf_hub.with_weights(found) == folder
    assert len(repository.downloads()) == len(SMALL | WEIGHTS)


def test_a_revision_and_the_commit_of_an_origin_are_read(repository):
    tagged = hf_hub.locate("hf:org/model@v2", "init_from")
    assert json.loads((tagged.path / "config.json").read_text()) == {"of": "v2"}
    repository.repositories["org/model"]["main"]["config.json"] = b'{"of": "later"}'
    assert hf_hub.locate(tagged.origin, "init_from") == tagged
    later = hf_hub.locate("hf:org/model", "init_from")
    assert json.loads((later.path / "config.json").read_text()) == {"of": "later"}
    with pytest.raises(ConfigError, match=r"--teacher=hf:org/model@v9: the repository has no such branch"):
        hf_hub.locate("hf:org/model@v9", "teacher")


def test_what_is_in_the_cache_is_read_where_the_hub_cannot_be_reached(repository, monkeypatch):
    from huggingface_hub import constants

    found = hf_hub.locate("hf:org/model", "init_from")
    set_endpoint(monkeypatch, "http://127.0.0.1:9")
    assert hf_hub.locate("hf:org/model", "init_from") == found
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the library tries again and again
    with pytest.raises(
        ConfigError, match=r"hf:org/model@\w+: .*not \(or not wholly\) in the cache .*cannot be reached"
    ):
        hf_hub.with_weights(found)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        ConfigError, match=r"--init_from=hf:org/other: .* HF_HUB_OFFLINE is set; unset it, or name a"
    ):
        hf_hub.locate("hf:org/other", "init_from")


def test_a_folder_of_this_machine_comes_first_and_a_line_says_so(repository, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(logging, "warning", lambda text, *args: said.append(text % args))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org/model").mkdir(parents=True)
    found = hf_hub.locate("hf:org/model", "init_from")
    assert not found.hub and found.origin == f"hf:{tmp_path}/org/model" and not repository.requests
    assert hf_hub.with_weights(found) == found.path
    assert said == ["hf:org/model: the folder of this machine, not the repository of the Hub"]
    hf_hub.locate(f"hf:{tmp_path}/org/model", "init_from")  # no repository's name
    assert len(said) == 1


def test_private_and_gated_repositories_are_read_with_a_token_and_errors_say_what_to_do(
    repository, monkeypatch
):
    repository.private.add("org/model")
    with pytest.raises(
        ConfigError, match=r"--init_from=hf:org/model: no folder .* correct the name, or log in .* HF_TOKEN"
    ):
        hf_hub.locate("hf:org/model", "init_from")
    monkeypatch.setenv("HF_TOKEN", repository.token)
    assert hf_hub.locate("hf:org/model", "init_from").hub
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    repository.gated.add("org/gated")
    with pytest.raises(
        ConfigError, match=r"gated: accept its terms at http://127\.0\.0\.1:\d+/org/gated, and log in"
    ):
        hf_hub.locate("hf:org/gated", "init_from")


@pytest.mark.parametrize("name", ["/nowhere/model", "./model", "~/model", "a/b/c", "", "a b"])
def test_what_can_be_no_repository_is_a_path(name, hub):  # noqa: F811
    found = hf_hub.locate(f"hf:{name}", "init_from")
    assert not found.hub and not hub.requests


@pytest.mark.parametrize("name", ["a--b", "org/model..x", "org/x.git"])
def test_a_name_that_the_hub_does_not_allow_is_refused(name, hub):  # noqa: F811
    with pytest.raises(ConfigError, match=f"--init_from=hf:{name}: "):
        hf_hub.locate(f"hf:{name}", "init_from")


def test_a_repository_without_safetensors_is_refused(repository):
    files = repository.repositories["org/model"]["main"]
    for name in [name for name in files if "safetensors" in name]:
        del files[name]
    found = hf_hub.locate("hf:org/model", "init_from")
    with pytest.raises(
        ConfigError, match=r"hf:org/model: the repository has no model\.safetensors .*save_pretrained"
    ):
        hf_hub.with_weights(found)


def export(folder, **files):
    folder.mkdir()
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the package itself
def test_a_push_makes_the_repository_and_takes_old_weights_away(hub, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("HF_TOKEN", hub.token)
    first = export(tmp_path / "a", config__json="{}", README__md="ours", model__safetensors="1")
    address = hf_hub.push(first, "org/new", private=True, message="jaxtrain export of new")
    assert hub.repositories["org/new"]["main"] == {
        "config.json": b"{}", "README.md": b"ours", "model.safetensors": b"1"
    }  # fmt: skip
    assert hub.private == {"org/new"} and hub.commits == ["jaxtrain export of new"]
    assert address.endswith(f"/org/new/commit/{hub.sha('org/new', 'main')}")
    hub.repositories["org/new"]["main"]["README.md"] = b"written on the Hub"
    second = export(tmp_path / "b", config__json="{}", README__md="ours", adapter_model__safetensors="2")
    hf_hub.push(second, "org/new", private=False, message="again")
    assert hub.repositories["org/new"]["main"] == {
        "config.json": b"{}", "README.md": b"written on the Hub", "adapter_model.safetensors": b"2"
    }  # fmt: skip


def test_a_push_without_a_token_or_a_server_says_what_to_do(hub, tmp_path, monkeypatch):  # noqa: F811
    folder = export(tmp_path / "a", config__json="{}")
    with pytest.raises(ConfigError, match=r"--push=org/new: .*log in with `hf auth login`"):
        hf_hub.push(folder, "org/new", private=False, message="m")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(ConfigError, match=r"--push=org/new: .*401.*log in"):
        hf_hub.push(folder, "org/new", private=False, message="m")
    set_endpoint(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"--push=org/new: http://127\.0\.0\.1:9 cannot be reached"):
        hf_hub.push(folder, "org/new", private=False, message="m")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the package itself
def test_an_upload_that_breaks_off_is_a_failure_that_may_be_tried_again(hub, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("HF_TOKEN", hub.token)
    monkeypatch.setattr(hub, "objects", None)
    folder = export(tmp_path / "a", config__json="{}", model__safetensors="1")
    with pytest.raises(
        Failure, match=r"--push=org/new: .*uploading 'model.safetensors'.*the same command goes on"
    ):
        hf_hub.push(folder, "org/new", private=False, message="m")
    assert hub.repositories["org/new"]["main"] == {}


def test_the_package_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"--init_from=hf:org/model: .*pip install 'jaxtrain\[hf\]'"):
        hf_hub.locate("hf:org/model", "init_from")
