"""Exports of models and adapters, from one process and from two."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxtrain import config
from jaxtrain.data import chat, dialogs
from jaxtrain.stages import export, init_from
from jaxtrain.train import parallel
from tests import hf_folders
from tests.runs import ROOT, free_port  # noqa: F401

SAMPLING = {"temperature": 0.6, "top_p": 0.9, "do_sample": True}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A base model with a sampling temperature, whose likeliest token ends chatml's turns and not its documents."""
    return hf_folders.write(
        tmp_path_factory.mktemp("base") / "hf",
        roles=hf_folders.BASE,
        template=None,
        favour=258,
        generation=SAMPLING,
    )


def chat_model(base):
    """The base model as a run under chatml leaves it."""
    start = init_from.load_run(f"hf:{base}")
    template = chat.load_template("chatml", start.tokenizer)
    return start._replace(tokenizer=dialogs.with_template(start.tokenizer, template))


def write(folder, start, **changes):
    options = {"dtype": "float32", "shard_bytes": 5e9} | changes
    plan = parallel.make(config.Run(parallel="mesh"), jax.devices()[:1])
    export.write_model(folder, start, plan, {"README.md": b"card"}, **options)
    return {
        name: json.loads((folder / f"{name}.json").read_text())
        for name in ("config", "generation_config", "tokenizer_config")
    }


def test_the_ends_agree_in_all_files_and_the_sampling_parameters_stay(base, tmp_path):
    files = write(tmp_path / "out", chat_model(base))
    assert files["config"]["eos_token_id"] == files["generation_config"]["eos_token_id"] == 258
    assert files["tokenizer_config"]["eos_token"] == "<|im_end|>"
    assert files["config"]["pad_token_id"] == files["generation_config"]["pad_token_id"] == 256
    assert files["generation_config"].items() >= SAMPLING.items()
    assert (tmp_path / "out/README.md").read_bytes() == b"card"
    assert (tmp_path / "out/chat_template.jinja").read_text() == chat_model(base).tokenizer.chat_template


def test_transformers_stops_where_we_do(base, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    write(tmp_path / "out", chat_model(base))
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    turns = [{"role": "user", "content": "Hi"}]
    ids = tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, return_tensors="pt", return_dict=False
    )
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False, temperature=None,
        top_p=None)  # fmt: skip
    assert out[0, ids.shape[1] :].tolist() == [258]
    start = chat_model(base)
    own = chat.load_template("auto", start.tokenizer).encode_prompt(turns)
    np.testing.assert_array_equal(ids[0], own)


def test_a_narrow_export_says_its_type_and_is_half_as_large(base, tmp_path):
    files = write(tmp_path / "wide", chat_model(base))
    assert files["config"]["torch_dtype"] == files["config"]["dtype"] == "float32"
    files = write(tmp_path / "half", chat_model(base), dtype="bfloat16", shard_bytes=20_000)
    assert files["config"]["torch_dtype"] == files["config"]["dtype"] == "bfloat16"
    shards = sorted((tmp_path / "half").glob("model-*.safetensors"))
    assert len(shards) > 2 and all(path.stat().st_size < 23_000 for path in shards)
    wide = load_file(tmp_path / "wide/model.safetensors")
    half = {name: x for path in shards for name, x in load_file(path).items()}
    index = json.loads((tmp_path / "half/model.safetensors.index.json").read_text())
    assert half.keys() == wide.keys() == index["weight_map"].keys()
    assert all(x.dtype.name == "bfloat16" and x.nbytes * 2 == wide[name].nbytes for name, x in half.items())
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in half.values())


PROCESS = """
import sys
from pathlib import Path
from jaxtrain import config
from jaxtrain.stages import export, init_from, load_model

base, out = map(Path, sys.argv[1:])
plan = load_model.inference_plan(config.Run(parallel="mesh", mesh="fsdp:-1"))
start = init_from.load_run(f"hf:{base}")
export.write_model(out, start, plan, {}, dtype="bfloat16", shard_bytes=20_000)
print(plan.process, plan.primary, plan.shards)
"""


@pytest.mark.slow
def test_two_processes_write_one_folder_which_is_that_of_one(base, tmp_path, free_port):  # noqa: F811
    shared = {
        "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1", "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
        "JAXTRAIN_COORDINATOR": f"127.0.0.1:{free_port}", "JAXTRAIN_NUM_PROCESSES": "2",
    }  # fmt: skip
    command = [sys.executable, "-c", PROCESS, str(base), str(tmp_path / "two")]
    both = [
        subprocess.Popen(
            command, env={**os.environ, **shared, "JAXTRAIN_PROCESS_ID": str(i)}, cwd=Path("/"), encoding="utf-8",
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for i in range(2)
    ]  # fmt: skip
    printed = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    assert "(0, 2) True 2" in printed[0][0] and "(1, 2) False 2" in printed[1][0]
    write(tmp_path / "one", init_from.load_run(f"hf:{base}"), dtype="bfloat16", shard_bytes=20_000)
    names = {path.name for path in (tmp_path / "one").iterdir()} - {"README.md"}
    assert {path.name for path in (tmp_path / "two").iterdir()} == names
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
