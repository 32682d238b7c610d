"""Exports of runs as Hugging Face directories, and runs that start from such directories."""

import fnmatch
import json
import shutil

import jax
import numpy as np
import pytest

from experiments import sft
from jaxtrain import flags as command_line
from jaxtrain.config import ConfigError
from jaxtrain.data.tokenizer import load
from jaxtrain.files import checksums, hf_hub
from jaxtrain.models import transformer
from jaxtrain.stages import init_from, session, weights
from tests import hf_folders
from tests.hub import hub  # noqa: F401
from tests.runs import call, quick, rows

STILL = ("--steps=3", "--lr=0", "--weight_decay=0")  # what it ends with is what it started from


@pytest.fixture(scope="module")
def exported(town, adapted):
    folder = town / "hf"
    with quick():
        said = call("export", f"--init_from={adapted}", f"--to=hf:{folder}")
    assert said == f"exported {adapted} to {folder}\n"
    return folder


def parameters(town, name):
    start = init_from.load_run(name)
    cfg = command_line.from_flags(sft.Sft, list(town.flags("sft", start=name)))
    with quick():
        model = transformer.build(start.arch, transformer.execution(cfg.model, "cpu"))
        params = weights.load_params(session.make_plan(cfg), start, model, 0)
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree.leaves_with_path(params)}


def test_an_export_has_the_merged_parameters_to_the_bit(town, adapted, exported):
    wanted, found = parameters(town, str(adapted)), parameters(town, f"hf:{exported}")
    assert wanted.keys() == found.keys()
    assert all(np.array_equal(value, found[path]) for path, value in wanted.items())
    base = parameters(town, str(town / "sft"))
    assert not np.array_equal(
        base["['layers']['mlp']['up']['kernel']"], found["['layers']['mlp']['up']['kernel']"]
    )


def test_a_run_from_an_export_begins_where_the_exported_one_ended(town, adapted, exported):
    run = town.run("sft", "from-hf", *STILL, start=f"hf:{exported}")
    wanted, found = (
        next(row for row in reversed(rows(folder)) if "eval/loss" in row) for folder in (adapted, run)
    )
    names = [name for name in wanted if name.startswith("eval/")]
    assert len(names) == 3
    np.testing.assert_allclose([found[name] for name in names], [wanted[name] for name in names], rtol=1e-6)
    answered, told = ((folder / "samples").glob("*.jsonl") for folder in (adapted, run))
    assert max(answered).read_text() == max(told).read_text()
    held = json.loads((run / "config.json").read_text())
    assert held["parent"] == {
        "run": None, "stage": "hf", "step": None, "parent": {}, "origin": f"hf:{exported}"
    }  # fmt: skip
    arch = json.loads((adapted / "config.json").read_text())["arch"]
    assert held["arch"] == arch | {
        "max_len": 4096,  # transformers wants a number where there is no limit
        "family": "llama",
    }


def test_a_damaged_export_is_refused_and_an_edit_of_it_can_be_accepted(town, exported, tmp_path):
    copy = tmp_path / "hf"
    shutil.copytree(exported, copy)
    (copy / "README.md").write_text("# A model of mine")
    parameters(town, f"hf:{copy}")
    weight = copy / "model.safetensors"
    bits = bytearray(weight.read_bytes())
    bits[-5] ^= 64
    weight.write_bytes(bits)
    init_from.load_run(f"hf:{copy}")
    with pytest.raises(ConfigError, match=r"model\.safetensors differs from what was written"):
        parameters(town, f"hf:{copy}")
    for name in ("config.json", "tokenizer.json", "special_tokens.json", "generation_config.json"):
        file = copy / name
        whole = file.read_bytes()
        file.write_bytes(whole.replace(b":", b": ", 1))
        with pytest.raises(
            ConfigError, match=rf"^--init_from=hf:{copy}: {file} has .*export the folder again"
        ):
            init_from.load_run(f"hf:{copy}")
        file.write_bytes(whole)
    (copy / "tokenizer.json").rename(copy / "elsewhere.json")
    with pytest.raises(ConfigError, match=r"tokenizer\.json is missing"):
        init_from.load_run(f"hf:{copy}")
    (copy / "elsewhere.json").rename(copy / "tokenizer.json")
    hf_folders.edit(copy / "config.json", max_position_embeddings=77)
    with pytest.raises(ConfigError, match=r"config\.json .*delete .*checksums\.json"):
        init_from.load_run(f"hf:{copy}")
    (copy / "checksums.json").unlink()
    assert init_from.load_run(f"hf:{copy}").arch.max_len == 77


def test_a_copy_without_the_weights_has_every_other_file(exported):
    """As hf:BUCKET/PATH is read: the tokenizer's folder is verified whole."""
    small = [name for name in checksums.read(exported) if not fnmatch.fnmatch(name, checksums.WEIGHTS)]
    assert hf_hub.ROLES in small
    assert [n for n in small if not any(fnmatch.fnmatch(n, pattern) for pattern in hf_hub._SMALL)] == []


def test_the_tokenizer_of_a_run_is_verified(town, tmp_path):
    copy = tmp_path / "sft"
    shutil.copytree(town / "sft", copy, ignore=shutil.ignore_patterns("checkpoints"))
    init_from.load_run(str(copy))
    for name in ("special_tokens.json", "tokenizer.json", "checksums.json"):
        file = copy / "tokenizer" / name
        whole = file.read_bytes()
        for damaged in (whole[: len(whole) // 2], whole.replace(b"eos", b"eor"), whole[:-3] + b"\xff\n}"):
            file.write_bytes(damaged)
            if damaged != whole:
                with pytest.raises(ConfigError, match=name.replace(".", r"\.")):
                    init_from.load_run(str(copy))
        file.write_bytes(whole)
    init_from.load_run(str(copy))


def test_tokenizer_and_template_travel_with_the_export(town, adapted, exported):
    before, after = load(adapted / "tokenizer"), load(exported)
    assert after.fingerprint == before.fingerprint and after.chat_template == before.chat_template
    assert after.chat_template and (after.bos, after.eos, after.pad) == (before.bos, before.eos, before.pad)
    said = json.loads((exported / "tokenizer_config.json").read_text())
    for role in ("bos", "eos", "pad"):
        assert before.specials[said[f"{role}_token"]] == getattr(before, role)


def test_an_export_is_of_the_step_and_in_the_type_of_the_flags(town, adapted, exported):
    with quick():
        call("export", f"--init_from={adapted}@5", f"--to=hf:{town / 'half'}", "--dtype=bfloat16")
    found, early = parameters(town, f"hf:{town / 'half'}"), parameters(town, f"{adapted}@5")
    late = parameters(town, f"hf:{exported}")
    kernel = "['layers']['mlp']['up']['kernel']"
    assert np.array_equal(found[kernel], np.asarray(jax.numpy.asarray(early[kernel], "bfloat16"), "float32"))
    assert not np.allclose(found[kernel], late[kernel], rtol=0.01)


def test_a_damaged_directory_is_named(town, exported, tmp_path):
    copy = tmp_path / "cut"
    shutil.copytree(exported, copy, ignore=shutil.ignore_patterns("checksums.json"))
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ConfigError, match=r"cut/model\.safetensors: cannot be read as safetensors"):
        town.run("sft", "refused", *STILL, start=f"hf:{copy}")
    (copy / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"cut.*config\.json"):
        town.run("sft", "refused", *STILL, start=f"hf:{copy}")
    assert not (town / "refused").exists()


def test_a_tokenizer_that_does_not_fit_the_embedding_is_refused(town, exported, tmp_path):
    copy = tmp_path / "other"
    shutil.copytree(exported, copy, ignore=shutil.ignore_patterns("checksums.json"))
    file = copy / "tokenizer.json"
    held = json.loads(file.read_text())
    size = json.loads((copy / "config.json").read_text())["vocab_size"]
    last = max(token["id"] for token in held["added_tokens"])
    more = [
        {**held["added_tokens"][0], "id": i, "content": f"<|more {i}|>"}
        for i in range(len(held["model"]["vocab"]), size + 9)
        if i > last
    ]
    held["added_tokens"] += more
    file.write_text(json.dumps(held))
    with pytest.raises(
        ConfigError, match=f"the tokenizer has {size + 9} tokens, but the model's embedding {size} rows"
    ):
        town.run("sft", "refused", *STILL, start=f"hf:{copy}")
    assert not (town / "refused").exists()


@pytest.fixture(scope="module")
def from_folder(town, tmp_path_factory):
    """A run with adapters from a Hugging Face folder whose generation_config.json lists two ends, and the folder."""
    folder = hf_folders.write(
        tmp_path_factory.mktemp("folder") / "hf",
        roles=hf_folders.BASE,
        template=None,
        favour=256,
        generation={"eos_token_id": [257, 256], "temperature": 0.6},
    )
    flags = ("--steps=1", "--warmup=0", "--lora_rank=2", "--lr=0.01", "--template=chatml", "--seq_len=128")
    return town.run("sft", "folder-lora", *flags, start=f"hf:{folder}"), folder


def test_a_run_keeps_the_ends_of_the_folder_that_it_started_from_and_samples_to_them(from_folder, tmp_path):
    run, _ = from_folder
    start = init_from.load_run(str(run))
    assert start.generation == {"temperature": 0.6, "eos_token_id": [257, 256]}
    samples = [json.loads(line) for line in max((run / "samples").glob("*.jsonl")).read_text().splitlines()]
    assert samples and all(each == each | {"ended": True, "completion": ""} for each in samples)
    with quick():
        call("export", f"--init_from={run}", f"--to=hf:{tmp_path / 'out'}")
    files = [
        json.loads((tmp_path / f"out/{name}.json").read_text()) for name in ("config", "generation_config")
    ]
    assert [each["eos_token_id"] for each in files] == [[258, 257, 256]] * 2
    assert files[1]["temperature"] == 0.6
    card = (tmp_path / "out/README.md").read_text()
    assert "- Base model: hf\n" in card and "- Stage: sft\n" in card and "Licence: unknown" in card


def test_the_adapters_of_a_run_from_a_folder_name_it_and_are_that_run(town, from_folder, tmp_path):
    run, folder = from_folder
    with quick():
        call("export", f"--init_from={run}", f"--to=hf:{tmp_path / 'adapter'}", "--adapter")
    held = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert held["base_model_name_or_path"] == str(folder) and held["revision"] is None
    assert not (tmp_path / "adapter/config.json").exists() and (tmp_path / "adapter/README.md").exists()
    wanted, found = parameters(town, str(run)), parameters(town, f"hf:{tmp_path / 'adapter'}")
    assert all(np.allclose(value, found[path], atol=1e-6) for path, value in wanted.items())
    start = init_from.load_run(f"hf:{tmp_path / 'adapter'}")
    assert start.tokenizer.chat_template == init_from.load_run(str(run)).tokenizer.chat_template


def test_the_adapters_of_a_run_from_a_run_name_the_export_of_that_one(town, adapted, tmp_path):
    with pytest.raises(ConfigError, match=r"--adapter: .*started from a run.*name that with --base"):
        call("export", f"--init_from={adapted}", f"--to=hf:{tmp_path / 'adapter'}", "--adapter")
    with quick():
        call("export", f"--init_from={town / 'sft'}", f"--to=hf:{tmp_path / 'base'}")
        flags = ("--adapter", f"--base=hf:{tmp_path / 'base'}")
        call("export", f"--init_from={adapted}", f"--to=hf:{tmp_path / 'adapter'}", *flags)
    wanted, found = parameters(town, str(adapted)), parameters(town, f"hf:{tmp_path / 'adapter'}")
    assert all(np.allclose(value, found[path], atol=1e-6) for path, value in wanted.items())
    other = hf_folders.write(tmp_path / "other")
    with pytest.raises(ConfigError, match=r"--base=hf:.*other: layers=2, in the run 1: another model"):
        call(
            "export", f"--init_from={adapted}", f"--to=hf:{tmp_path / 'a'}", "--adapter", f"--base=hf:{other}"
        )
    with pytest.raises(ConfigError, match="trained no adapters"):
        call("export", f"--init_from={town / 'sft'}", f"--to=hf:{tmp_path / 'a'}", "--adapter")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of huggingface_hub itself
def test_a_run_is_pushed_and_read_from_the_hub_again(town, adapted, hub, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("HF_TOKEN", hub.token)
    with quick():
        said = call("export", f"--init_from={adapted}", "--push=org/town", "--private")
    assert f"pushed {adapted} to http://127.0.0.1" in said and hub.private == {"org/town"}
    files = hub.repositories["org/town"]["main"]
    assert {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "README.md",
    } <= files.keys()
    assert b"# town" in files["README.md"] and hub.commits == ["jaxtrain export of town"]
    wanted, found = parameters(town, str(adapted)), parameters(town, "hf:org/town")
    assert all(np.array_equal(value, found[path]) for path, value in wanted.items())


REFUSED = {
    "no run": ((), "--init_from and --to: name the run, and hf:DIR to write"),
    "private, nowhere": (("--init_from=x", "--to=hf:out", "--private"), "--private: acts only with --push"),
    "a base of nothing": (
        ("--init_from=x", "--to=hf:out", "--base=hf:b"),
        "--base: acts only with --adapter",
    ),
    "half adapters": (
        ("--init_from=x", "--to=hf:out", "--adapter", "--dtype=bfloat16"),
        "adapters are written as",
    ),
    "no such run": (("--init_from=nowhere", "--to=hf:out"), "--init_from=nowhere is not a run"),
    "no form": (("--init_from=x", "--to=out"), "--to=out: write hf:DIR"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_commands_that_cannot_be_are_refused(kind):
    flags, message = REFUSED[kind]
    with pytest.raises(ConfigError, match=message):
        call("export", *flags)
