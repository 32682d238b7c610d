"""Runs that train adapters, and runs that go on from them."""

import json
import math
import shutil

import jax
import numpy as np
import pytest

from experiments import dpo
from jaxtrain import flags as command_line
from jaxtrain.config import ConfigError
from jaxtrain.data import chat, preferences
from jaxtrain.models import transformer
from jaxtrain.stages import init_from, reference, session, weights
from tests.runs import arrays, column, quick, rows, same_arrays

DORA = ("--lora_rank=2", "--lora_alpha=4", "--lora_targets=attention/q", "--dora")
SCALE = 4 / 2  # alpha / rank


@pytest.fixture(scope="module")
def preferred(town, adapted):
    """DPO with adapters of its own, from the run with adapters."""
    return town.run("dpo", "dpo-lora", "--steps=4", "--lr=1e-3", *DORA, start="lora")


def params_of(workdir, step):
    prefix = "['params']"
    return {
        path.removeprefix(prefix): leaf
        for path, leaf in arrays(workdir, step).items()
        if path.startswith(prefix)
    }


def merged(base, adapters):
    """Whole parameters by path in float64, the products written out; heads and widths flattened by hand."""
    out = {path: leaf.astype(np.float64) for path, leaf in base.items()}
    for path in {path.rsplit("[", 1)[0] for path in adapters}:
        a, b = (adapters[f"{path}['{name}']"].astype(np.float64) for name in "ab")
        kernel = out[path]
        for layer in range(len(kernel)):
            product = a[layer].reshape(-1, 2) @ b[layer].reshape(2, -1)
            kernel[layer] += SCALE * product.reshape(kernel[layer].shape)
    return out


def flat(params):
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(params)}


def restored(town, name):
    """The whole parameters that a run started from `name` starts from."""
    start = init_from.load_run(str(town / name))
    cfg = command_line.from_flags(dpo.Dpo, list(town.flags("dpo", "--dry_run", start=name)))
    with quick():
        plan = session.make_plan(cfg)
        model = transformer.build(start.arch, transformer.execution(cfg.model, "cpu"))
        return flat(weights.load_params(plan, start, model, 0))


def test_only_adapters_are_trained_and_kept(town, adapted):
    held = arrays(adapted, 8)
    trained = [path for path in held if path.startswith(("['params']", "['opt_state']")) and held[path].ndim]
    assert trained and all(path.endswith(("['a']", "['b']")) for path in trained)
    moments = [path for path in trained if path.startswith("['opt_state']")]
    assert len(moments) == 2 * len(params_of(adapted, 8))
    assert sum(held[path].size for path in trained) < 3 * sum(
        leaf.size for leaf in params_of(town / "sft", 16).values()
    )
    said = " ".join(town.said["lora"].split())
    count = sum(leaf.size for leaf in params_of(adapted, 8).values())
    assert f"parameters {count:,}" in said and "the adapters' base" in said
    assert not any(np.array_equal(leaf, 0 * leaf) for leaf in params_of(adapted, 8).values())
    assert json.loads((adapted / "config.json").read_text())["parent"]["origin"] == f"{town / 'sft'}@16"


def test_a_resumed_run_has_the_base_that_it_began_with_and_goes_on_to_the_same_bits(town, adapted):
    before = column(town / "sft", "eval/loss")[-1]
    assert column(adapted, "loss")[0] == pytest.approx(before, abs=0.4)
    assert column(adapted, "loss")[0] < column(town / "sft", "loss")[0]
    later = town / "sft" / "checkpoints" / "99"  # the parent trained on in the meantime
    shutil.copytree(later.with_name("6"), later)
    try:
        again = town.resumed("sft", "lora", 5, *town.LORA)
    finally:
        shutil.rmtree(later)
    assert rows(again) == rows(adapted)
    same_arrays(adapted, again, 8)


def test_what_goes_on_from_adapters_starts_from_base_plus_product(town, adapted):
    wanted = merged(params_of(town / "sft", 16), params_of(adapted, 8))
    found, base = restored(town, "lora"), params_of(town / "sft", 16)
    assert wanted.keys() == found.keys()
    for path, value in wanted.items():
        np.testing.assert_allclose(found[path], value, atol=1e-6, err_msg=path)
        assert np.array_equal(found[path], base[path]) == ("kernel" not in path), path


def test_the_reference_is_what_training_starts_from_adapters_included(town, adapted, preferred, tmp_path):
    """Not the base that the adapters were laid over."""
    first = rows(preferred)[0]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-6)
    assert "rows computed" in town.said["dpo-lora"]
    cfg = command_line.from_flags(dpo.Dpo, list(town.flags("dpo", "--dry_run", start="lora")))
    start = init_from.resolve(cfg, needed=True)
    template = chat.load_template(cfg.data.template, start.tokenizer)
    with quick():
        plan = session.make_plan(cfg)
        data = preferences.prepare(
            cfg.data,
            seed=0,
            tokenizer=start.tokenizer,
            template=template,
            kind="pairs",
            ties="drop",
            soft=False,
        )
        run = session.start_session(cfg, tmp_path, plan, start, data.tokenizer, {})
        logps = reference.logps_fn(run)
        batch = data.train.batch(0)
        tuned, base = (
            logps(
                session.initial_params(run._replace(start=init_from.load_run(str(town / name))), 0), (), batch
            )
            for name in ("lora", "sft")
        )
    tables = [np.load(file) for file in (town / "cache" / "reference").glob("*/logps.npy")]
    near = [len(table) == len(data.rows) and np.allclose(table[batch["index"]], tuned) for table in tables]
    assert sum(near) == 1
    assert not np.allclose(tuned, base, atol=0.1)
    assert first["logps/chosen"] == pytest.approx(tuned[:, 0].mean(), rel=1e-5)


def test_adapters_on_adapters_chain(town, preferred):
    start = init_from.load_run(str(preferred))
    assert [origin.path.name for origin in start.origins] == ["sft", "lora", "dpo-lora"]
    assert [origin.lora and origin.lora.dora for origin in start.origins] == [None, False, True]
    found, before = restored(town, "dpo-lora"), restored(town, "lora")
    kernel = "['layers']['attention']['q']['kernel']"
    held = params_of(preferred, 4)
    a, b, m = (held[f"{kernel}['{name}']"].astype(np.float64) for name in "abm")
    for layer in range(len(a)):
        product = a[layer] @ b[layer].reshape(2, -1)
        whole = before[kernel][layer] + SCALE * product.reshape(before[kernel][layer].shape)
        whole *= m[layer] / np.sqrt((whole**2).sum(0))
        np.testing.assert_allclose(found[kernel][layer], whole, atol=1e-6)
    assert not np.array_equal(found[kernel], before[kernel])


def test_a_reward_model_with_adapters_trains_its_head_whole(town):
    run = town.run(
        "reward",
        "rm-lora",
        "--steps=4",
        "--members=2",
        "--lr=0.01",
        "--lora_rank=2",
        "--lora_targets=attention/q",
    )
    held = params_of(run, 4)
    assert {path for path in held if "score" in path} == {"['score']['weight']", "['score']['bias']"}
    others = [path for path in held if "score" not in path]
    assert others and all("attention']['q" in path and path.endswith(("['a']", "['b']")) for path in others)
    assert all(held[path].shape[0] == 2 for path in held)
    weight = held["['score']['weight']"]
    assert not np.array_equal(weight[0], weight[1]) and column(run, "eval/accuracy")


def test_adapters_need_a_model(bench, tmp_path):
    with pytest.raises(ConfigError, match="--lora_rank: adapters change a trained model; name it with"):
        bench.main("--lora_rank=2", f"--workdir={tmp_path / 'none'}")
    assert not (tmp_path / "none").exists()
