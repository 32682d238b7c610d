"""Folders of weights for a running server: which it takes, and what is wrong with the others."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxtrain.apps.serve.errors import ApiError
from jaxtrain.apps.serve.weights_folder import WeightsFolder, version_of
from jaxtrain.config import ConfigError
from jaxtrain.files import checksums
from jaxtrain.models import hf, transformer
from tests import tiny
from tests.apps.serve.conftest import ARCH, model

WEIGHTS = "model.safetensors"


def written(folder, arch=ARCH, seed=7):
    """A folder of weights as a trainer writes it."""
    lm = transformer.build(arch, tiny.how())
    hf.write(folder, lm.init(jax.random.key(seed)), arch)
    checksums.write(folder)
    return folder


def damaged(folder, how):
    """A copy of the good folder in which something is wrong."""
    file = folder / WEIGHTS
    arrays = load_file(file)
    first, last = min(arrays), max(arrays)
    if how == "checksum":
        data = bytearray(file.read_bytes())
        data[-5] ^= 1
        file.write_bytes(data)
        return
    if how == "sums":
        (folder / checksums.FILE).write_text((folder / checksums.FILE).read_text()[:-40])
        return
    (folder / checksums.FILE).unlink()
    if how == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif how == "missing":
        save_file({name: x for name, x in arrays.items() if name != last}, file)
    elif how == "more":
        save_file({**arrays, "model.extra.weight": arrays[first]}, file)
    elif how == "shape":
        save_file({**arrays, first: arrays[first][:-1]}, file)
    elif how == "finite":
        save_file({**arrays, last: np.full_like(arrays[last], np.nan)}, file)
    elif how == "weights":
        file.unlink()
    elif how == "config":
        (folder / "config.json").write_text("{")
    elif how == "link":
        shutil.copy(file, folder.parent.parent / "outside")
        file.unlink()
        file.symlink_to(folder.parent.parent / "outside")


WRONG = {
    "checksum": r"differs from what was written \(SHA-256\)",
    "sums": "checksums.json is damaged",
    "cut": "cannot be read as safetensors",
    "missing": "has no tensor",
    "more": "is none of the model",
    "shape": "has shape",
    "finite": "has values that are not finite",
    "weights": "has neither model.safetensors",
    "config": "config.json: cannot be read as JSON",
    "link": "is a link to a file that is not below --weights_dir",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    written(folder / "one")
    return folder


def test_a_folder_is_read_as_the_engine_takes_it(root):
    lm, _, runner = model()
    wanted = runner.engine.ready(lm.init(jax.random.key(7)), ())
    assert jax.tree.all(jax.tree.map(np.array_equal, runner.read_weights(root / "one"), wanted))


@pytest.mark.parametrize("how", sorted({*WRONG} - {"link"}))
def test_what_is_wrong_is_named_with_its_file(root, tmp_path, how):
    shutil.copytree(root / "one", tmp_path / "copy")
    damaged(tmp_path / "copy", how)
    with pytest.raises(ConfigError, match=WRONG[how]) as raised:
        model()[2].read_weights(tmp_path / "copy")
    assert str(tmp_path / "copy") in str(raised.value)


def test_another_architecture_is_named_by_its_key(tmp_path):
    for name, arch, key in (
        ("ff", dataclasses.replace(ARCH, ff=ARCH.ff * 2), "intermediate_size"),
        ("layers", dataclasses.replace(ARCH, layers=1), "num_hidden_layers"),
        ("theta", dataclasses.replace(ARCH, rope_theta=5.0), "rope_"),
    ):
        with pytest.raises(ConfigError, match=rf"config.json: {key}.* that of the served model is"):
            model()[2].read_weights(written(tmp_path / name, arch))


def test_a_folder_is_below_the_root_with_all_of_its_files(root, tmp_path):
    (root / "file").write_text("no folder")
    (root / "out").symlink_to(tmp_path, target_is_directory=True)
    (root / "in").symlink_to(root / "one", target_is_directory=True)
    shutil.copytree(root / "one", root / "link")
    damaged(root / "link", "link")
    folder = WeightsFolder(root)
    for text in ("one", str(root / "one"), "in", "link/../one", "./one"):
        assert folder.locate(text) == root / "one"
    for text, message in {
        "/etc": "below --weights_dir only", "..": "only", "out": "only", "one/../../x": "only",
        str(root.parent): "only",
        "file": "there is no folder file", "none": "there is no folder none", "\0": "it cannot be read",
        "a" * 5000: "it cannot be read|there is no folder", "": "out is a link", "link": WRONG["link"],
    }.items():  # fmt: skip
        with pytest.raises(ApiError, match=message) as raised:
            folder.locate(text)
        assert raised.value.status == 400 and raised.value.param == "model_path"


def test_a_version_follows_from_the_weights_alone(root, tmp_path):
    shutil.copytree(root / "one", tmp_path / "copy")
    (tmp_path / "copy" / checksums.FILE).unlink()
    assert version_of(tmp_path / "copy") == version_of(root / "one")
    assert version_of(written(tmp_path / "other", seed=8)) != version_of(root / "one")
