"""Runs that train adapters over quantized kernels, and what is made of them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import sft
from jaxtrain import flags as command_line
from jaxtrain.config import ConfigError
from jaxtrain.models import quantized_weights, transformer
from jaxtrain.stages import frozen_base, init_from, session, weights
from jaxtrain.train import parallel
from tests import tiny
from tests.runs import arrays, call, column, quick, rows, same_arrays

MODEL = "tinytown-200k,layers=1,width=64,heads=2,ff=128"
FLAGS = ("--steps=6", "--checkpoint_every=4", "--keep=9", "--lr=0.02", "--lora_rank=4", "--lora_alpha=8")
SHORT = (
    "--steps=3",
    "--minibatches=2",
    "--lr=1e-3",
    "--lora_rank=2",
    "--lora_targets=attention/q",
    "--reward=gold",
)
INT8, NF4 = "--base_weights=int8", "--base_weights=nf4"


@pytest.fixture(scope="module")
def wide(town):
    """A model whose kernels have blocks of 64, trained; its name."""
    with quick():
        call(
            "pretrain", "--data=tinytown:pretrain?documents=300&held_out=40", f"--model={MODEL}", town.cache,
            "--tokenizer=bpe:400", "--steps=60", "--lr=0.01", f"--workdir={town / 'wide'}", "--eval_every=0",
            "--eval_batches=1", "--seq_len=64", "--batch_size=8", "--warmup=5", "--sample_every=0",
        )  # fmt: skip
    return "wide"


@pytest.fixture(scope="module")
def tuned(town, wide):
    return {
        kind: town.run("sft", f"sft-{kind}", *FLAGS, f"--base_weights={kind}", start=wide)
        for kind in ("int8", "nf4")
    }


def params(folder, step):
    prefix = "['params']"
    found = arrays(folder, step).items()
    return {path.removeprefix(prefix): leaf for path, leaf in found if path.startswith(prefix)}


def parameters(town, name):
    """(the model, its whole parameters) of what --init_from names."""
    start = init_from.load_run(name)
    cfg = command_line.from_flags(sft.Sft, list(town.flags("sft", start=name)))
    with quick():
        model = transformer.build(start.arch, transformer.execution(cfg.model, "cpu"))
        return model, weights.load_params(session.make_plan(cfg), start, model, 0)


def flat(tree):
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}


def rounded(kernel, writes, kind):
    """A kernel f[L, inputs, outputs] of codes and scales in float64; by blocks of the last inputs, of 64 each."""
    kernel = kernel.astype(np.float64).reshape(kernel.shape[0], -1, writes)
    if kind == "int8":
        scale = (np.abs(kernel).max(1, keepdims=True) / np.float32(127)).astype(np.float32)
        return np.round(kernel / scale) * scale
    blocks = kernel.reshape(kernel.shape[0], -1, 64, writes)
    scale = np.abs(blocks).max(2, keepdims=True)
    levels = np.array(quantized_weights.LEVELS)
    codes = np.abs(blocks[..., None] / scale[..., None] - levels).argmin(-1)
    return (levels[codes] * scale).reshape(kernel.shape)


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_a_run_stores_its_adapters_alone_and_resumes_to_the_bit(town, wide, tuned, kind):
    held = arrays(tuned[kind], 6)
    trained = [path for path in held if path.startswith(("['params']", "['opt_state']")) and held[path].ndim]
    assert trained and all(path.endswith(("['a']", "['b']")) for path in trained)
    assert f"kernels in {kind}, " in " ".join(town.said[f"sft-{kind}"].split())
    again = town.resumed("sft", f"sft-{kind}", 4, *FLAGS, f"--base_weights={kind}", start=wide)
    assert rows(again) == rows(tuned[kind])
    same_arrays(tuned[kind], again, 6)


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_what_goes_on_from_a_run_has_the_rounded_base_and_the_product(town, wide, tuned, kind):
    before, adapters = params(town / wide, 60), params(tuned[kind], 6)
    found = flat(parameters(town, str(tuned[kind]))[1])
    for path in {path.rsplit("[", 1)[0] for path in adapters}:
        a, b = (adapters[f"{path}['{name}']"].astype(np.float64) for name in "ab")
        writes = math.prod(b.shape[2:])
        if (
            kind == "int8" or "['out']" not in path
        ):  # the blocks of `out` are of its outputs, as its heads are of 32
            wanted = rounded(before[path], writes, kind) + 2 * a.reshape(1, -1, 4) @ b.reshape(1, 4, -1)
            np.testing.assert_allclose(found[path].reshape(wanted.shape), wanted, atol=1e-5, err_msg=path)
        assert not np.array_equal(found[path], before[path])
    assert all(np.array_equal(x, before[path]) for path, x in found.items() if "kernel" not in path)
    # The held-out loss of the run, computed on codes, is that of whole parameters; lr=0 trains none of them.
    still = ("--steps=1", "--lr=0", "--weight_decay=0", "--warmup=0")
    after = town.run("sft", f"after-{kind}", *still, start=f"sft-{kind}")
    assert column(after, "eval/loss")[-1] == pytest.approx(column(tuned[kind], "eval/loss")[-1], abs=1e-5)


def test_log_probabilities_of_a_trained_model_move_little(town, wide):
    """Mean change of a token's log-probability in nats: 0.004 of int8, 0.04 of nf4."""
    model, whole = parameters(town, str(town / wide))
    batch = tiny.batch(8, 32, init_from.load_run(str(town / wide)).arch.vocab, packed=False)

    @jax.jit
    def logps(params):
        hidden = model.hidden(params, batch)
        return jax.nn.log_softmax(hidden @ model.head(params).weight.T)

    def moved(kind):
        change = logps(quantized_weights.quantize(whole, model.axes, kind)) - logps(whole)
        return float(jnp.abs(change).mean())

    found = {kind: moved(kind) for kind in ("int8", "nf4")}
    assert 0 < found["int8"] < 0.01 and 2 * found["int8"] < found["nf4"] < 0.1, found


def test_an_export_is_what_the_run_computed_with_and_commands_take_the_run(town, tuned):
    with quick():
        call("export", f"--init_from={tuned['nf4']}", f"--to=hf:{town / 'hf-nf4'}")
        said = call(
            "sample",
            f"--init_from={tuned['nf4']}",
            town.cache,
            "--max_new=4",
            "--temperature=0",
            "--prompt=Why",
        )
        same = call(
            "sample",
            f"--init_from=hf:{town / 'hf-nf4'}",
            town.cache,
            "--max_new=4",
            "--temperature=0",
            "--prompt=Why",
        )
    assert said == same
    wanted, found = (flat(parameters(town, name)[1]) for name in (str(tuned["nf4"]), f"hf:{town / 'hf-nf4'}"))
    assert wanted.keys() == found.keys() and all(np.array_equal(x, found[path]) for path, x in wanted.items())


def test_a_base_that_is_quantized_as_a_folder_is_read_is_that_of_the_whole_model(town, tuned):
    name = f"hf:{town / 'hf-nf4'}"
    start, (model, whole) = init_from.load_run(name), parameters(town, name)
    for kind in ("int8", "nf4"):
        flags = town.flags("sft", "--lora_rank=2", f"--base_weights={kind}", start=name)
        cfg = command_line.from_flags(sft.Sft, list(flags))
        with quick():
            plan = session.make_plan(cfg)
            found = flat(frozen_base.load(cfg, plan, start, model, None, None))
            wanted = flat(frozen_base.in_base_type(plan, whole, model.axes, cfg.lora))
        assert wanted.keys() == found.keys() and all(
            np.array_equal(x, found[path]) for path, x in wanted.items()
        )
    run = town.run("sft", "sft-hf-nf4", "--steps=3", "--lora_rank=2", NF4, start=name)
    assert column(run, "loss")[0] == pytest.approx(column(tuned["nf4"], "loss")[-1], abs=0.5)


def test_the_reference_of_dpo_is_the_rounded_base(town, wide):
    run = town.run("dpo", "dpo-nf4", "--steps=3", "--lr=1e-3", "--lora_rank=2", NF4, start=wide)
    whole = town.run("dpo", "dpo-f32", "--steps=3", "--lr=1e-3", "--lora_rank=2", start=wide)
    first, other = rows(run)[0], rows(whole)[0]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-6)
    assert abs(first["logps/chosen"] - other["logps/chosen"]) > 1e-3  # each has a table of its own
    assert first["logps/chosen"] == pytest.approx(other["logps/chosen"], rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_on_policy_stages_start_at_the_reference_and_sample_from_codes(town, wide, kind):
    for stage, more in (("ppo", ("--value=policy",)), ("grpo", ("--group=2", "--kl_coef=0.1"))):
        run = town.run(stage, f"{stage}-{kind}", *SHORT, *more, f"--base_weights={kind}", start=wide)
        first = next(row for row in rows(run) if "policy/approxkl_avg" in row or "loss" in row)
        kl = first.get("objective/kl", first.get("kl"))
        assert kl is not None and kl == pytest.approx(0, abs=1e-4)
        assert all(path.endswith(("['a']", "['b']")) or "score" in path for path in params(run, 3))


@pytest.mark.slow
def test_a_reward_model_over_codes_scores_as_it_did_in_training(town, wide):
    flags = ("--steps=3", "--members=2", "--lora_rank=2", NF4)
    run = town.run("reward", "rm-nf4", *flags, start=wide)
    assert column(run, "eval/accuracy")
    ppo = town.run(
        "ppo", "ppo-rm", "--steps=3", "--lr=1e-3", "--lora_rank=2", INT8, f"--reward_model={run}", start=wide
    )
    assert all(math.isfinite(x) for x in column(ppo, "objective/scores"))


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["fsdp:2", "tensor:2"])
def test_a_mesh_trains_the_same(town, wide, tuned, mesh):
    make, name = parallel.make, f"sft-nf4-{mesh.partition(':')[0]}"
    flags = town.flags("sft", f"--workdir={town / name}", *FLAGS, NF4, f"--mesh={mesh}", start=wide)
    with quick(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "make", lambda run: make(run, jax.devices()[:2]))
        call("sft", *flags)
    for one, other in zip(rows(tuned["nf4"]), rows(town / name), strict=True):
        for key, value in one.items():
            if key in ("loss", "grad_norm", "eval/loss"):
                assert other[key] == pytest.approx(value, rel=1e-4), key


def test_a_wrong_base_is_refused_and_leaves_no_run(town, wide, tmp_path):
    def refused(*flags, stage="sft", start=wide):
        with quick(), pytest.raises(ConfigError) as error:
            call(
                stage, *town.flags(stage, f"--workdir={tmp_path / 'none'}", "--steps=3", *flags, start=start)
            )
        assert not (tmp_path / "none").exists()
        return str(error.value)

    assert refused(NF4).startswith("--base_weights=nf4: quantized weights are frozen")
    assert "--lora_rank=16" in refused(INT8, stage="dpo")
    said = refused(NF4, "--lora_rank=2", start="sft")  # a model of width 32
    assert said.startswith("--base_weights=nf4: layers/attention/") and "--base_weights=int8" in said


def test_log_probabilities_over_an_int8_kv_cache_are_near_those_of_training(town, wide):
    """Of a trained model: the mean error of a token's log-probability is below 0.005 nats."""
    start = init_from.load_run(str(town / wide))
    _, params = parameters(town, str(town / wide))
    cfg = command_line.from_flags(sft.Sft, list(town.flags("sft", "--kv_cache=int8", start=wide)))
    model = transformer.build(start.arch, transformer.execution(cfg.model, "cpu"))
    batch = tiny.batch(8, 32, start.arch.vocab, packed=False)
    tokens, head = jnp.asarray(batch["tokens"]), model.head(params).weight.T

    @jax.jit
    def errors(params):
        hidden, cache = model.decode(params, tokens[:, :8], None, model.cache(8, 32))
        places = jnp.broadcast_to(jnp.arange(8, 32), (8, 24))
        one_by_one, _ = model.decode(params, tokens[:, 8:], places, cache)
        found = jax.nn.log_softmax(jnp.concatenate([hidden, one_by_one], 1) @ head)
        return jnp.abs(found - jax.nn.log_softmax(model.hidden(params, batch) @ head))[:, 8:].mean()

    with quick():
        assert 0 < float(errors(params)) < 0.005


def test_commands_sample_from_an_int8_kv_cache(town, wide):
    with quick():
        flags = (town.cache, "--max_new=6", "--prompt=Why", "--kv_cache=int8", "--temperature=0")
        said = call("sample", f"--init_from={town / wide}", *flags)
    assert said.strip()
    run = town.run(
        "grpo", "grpo-int8-cache", *SHORT, "--group=2", "--kv_cache=int8", NF4, "--kl_coef=0.1", start=wide
    )
    assert all(math.isfinite(x) for x in column(run, "objective/kl"))
    with pytest.raises(ConfigError, match="--kv_cache: int8 -> auto"), quick():
        call(
            "grpo",
            *town.flags("grpo", f"--workdir={run}", *SHORT, "--group=2", NF4, "--kl_coef=0.1", start=wide),
        )
