"""--depth: what it sets, and that activations and updates have the same size at every width (the coordinate check)."""

import dataclasses
import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import pretrain
from jaxtrain import config, flags
from jaxtrain.config import ConfigError
from jaxtrain.models import depth_rule, transformer, zoo
from jaxtrain.objectives.next_token import next_token
from jaxtrain.ops.logprobs import logits
from jaxtrain.train import optim
from jaxtrain.train.step import init_state, train_step
from tests import tiny
from tests.runs import call, column, on_one_device

WIDTHS = (64, 256)
STEPS, VOCAB, LAYERS = 3, 64, 1


def test_a_depth_has_a_width_of_64_and_20_tokens_a_parameter():
    for depth in (1, 2, 12, 24):
        run = depth_rule.scaled(depth, seq_len=128)
        arch = dataclasses.replace(zoo.resolve(run.model), vocab=VOCAB)
        assert (arch.layers, arch.width, arch.C, arch.heads) == (depth, 64 * depth, 64, depth)
        kernels = transformer.parameters(arch) - 2 * VOCAB * arch.width
        assert kernels == pytest.approx(depth_rule.parameters(depth), rel=0.01)
        tokens = run.batch_size * run.steps * 128
        assert tokens == pytest.approx(20 * depth_rule.parameters(depth), rel=0.05)
        assert run.batch_size % 8 == 0 and run.optimizer == "muon"
        assert run.lr * run.weight_decay * run.steps == pytest.approx(1, rel=0.02)
    small, large = depth_rule.scaled(2, 128), depth_rule.scaled(16, 128)
    share = large.batch_size / small.batch_size
    assert share == pytest.approx(8 ** (3 * 0.383), rel=0.05), "B ∝ T^.383, T ∝ d³"
    assert [small.lr, large.lr] == pytest.approx([0.03, 0.03], rel=0.05)
    assert (small.adam_lr, large.adam_lr) == (small.lr, large.lr)


def test_what_is_given_is_taken_and_the_rest_follows():
    free = depth_rule.scaled(4, 128)
    longer = depth_rule.scaled(4, 128, steps=2 * free.steps)
    assert (longer.steps, longer.batch_size, longer.lr) == (2 * free.steps, free.batch_size, free.lr)
    assert longer.weight_decay == pytest.approx(free.weight_decay / 2, rel=0.01)
    larger = depth_rule.scaled(4, 128, batch_size=4 * free.batch_size)
    assert larger.lr == pytest.approx(2 * free.lr, rel=0.01) and larger.steps == pytest.approx(
        free.steps / 4, abs=1
    )
    assert depth_rule.scaled(4, 512).batch_size == pytest.approx(free.batch_size / 4, abs=4), "as many tokens"
    assert larger.adam_lr == pytest.approx(2 * free.adam_lr, rel=0.01)
    fast = depth_rule.scaled(4, 128, lr=0.5)
    assert (fast.lr, fast.adam_lr) == (0.5, free.adam_lr), "the tables' rate does not follow the kernels'"


@functools.cache
def sizes(width, by_rule=True):
    """Root mean squares at the start, and of what some steps change: hidden states, logits, embeddings as read."""
    arch = dataclasses.replace(zoo.resolve(depth_rule.shape(LAYERS, width)), vocab=VOCAB)
    if not by_rule:
        arch = dataclasses.replace(arch, init_std=0.25 * 64**-0.5)
    model = transformer.build(arch, tiny.how())
    model = depth_rule.with_embeddings(model, width) if by_rule else model
    rates = depth_rule.rates(width) if by_rule else {}
    settings = config.Optim(optimizer="muon", lr=0.02, schedule="constant", warmup=0, weight_decay=0.0)
    tx = optim.optimizer(settings, STEPS, model.axes, rates)
    rows = np.random.default_rng(0).integers(0, VOCAB, (4, 33)).astype(np.int32)
    batch = {
        "tokens": rows[:, :-1], "targets": rows[:, 1:], "mask": np.ones((4, 32), np.float32),
        "segments": np.ones((4, 32), np.int32), "positions": np.tile(np.arange(32), (4, 1)),
        "bytes": np.ones(4, np.float32),
    }  # fmt: skip
    step = jax.jit(functools.partial(train_step, objective=functools.partial(next_token, model=model), tx=tx))
    state = init_state(jax.jit(model.init)(jax.random.key(0)), tx, jax.random.key(1))
    outputs = []
    for i in range(STEPS + 1):
        x = model.hidden(state.params, batch)
        outputs.append((x, logits(x, model.head(state.params)), state.params["embed"]))
        if i < STEPS:
            state, _ = step(state, (), batch)

    def rms(x):
        return float(jnp.sqrt(jnp.square(x).mean()))

    (x0, y0, e0), (x1, y1, e1) = outputs[0], outputs[-1]
    return {
        "logits": rms(y0), "hidden moves": rms(x1 - x0), "logits move": rms(y1 - y0),
        "embeddings": rms(e0), "embeddings move": rms(e1 - e0),
    }  # fmt: skip


def slopes(by_rule, widths=WIDTHS):
    """The exponent a of each size ∝ width^a, from the narrowest to the widest."""
    first, last = (sizes(width, by_rule) for width in (widths[0], widths[-1]))
    return {name: math.log(last[name] / first[name]) / math.log(widths[-1] / widths[0]) for name in first}


@pytest.mark.parametrize("widths", [WIDTHS, pytest.param((64, 128, 256, 512), marks=pytest.mark.slow)])
def test_the_coordinate_check_is_flat_over_widths(widths):
    for name in sizes(64):
        found = [sizes(width)[name] for width in widths]
        assert max(found) / min(found) < 1.6, (name, found)
    assert all(abs(slope) < 0.15 for slope in slopes(True, widths).values()), slopes(True, widths)


def test_without_the_rule_it_is_not():
    assert slopes(False)["logits move"] > 0.4


def best_rate(folder, depth, seeds):
    """The least of a parabola in log --lr through the mean held-out losses of two layers of the depth's width."""
    losses = []
    for lr in (0.01, 0.02, 0.04):
        found = []
        for seed in seeds:
            run = folder / f"{depth}-{lr}-{seed}"
            call("pretrain", f"--depth={depth}", f"--lr={lr}", "--adam_lr=0.02", f"--seed={seed}", f"--workdir={run}",
                 "--steps=100", "--batch_size=64", "--seq_len=64", "--eval_batches=64", "--sample_every=0",
                 f"--cache_dir={folder / 'cache'}")  # fmt: skip
            found.append(column(run, "eval/loss")[-1])
        losses.append(sum(found) / len(found))
    below, least, above = losses
    assert least < min(below, above), losses
    return 0.02 * 2 ** ((below - above) / (2 * (below - 2 * least + above)))


@pytest.mark.slow
def test_the_best_learning_rate_hardly_moves_from_a_width_of_64_to_512(tmp_path, monkeypatch, optimized):
    on_one_device(monkeypatch)
    shape = depth_rule.shape
    monkeypatch.setattr(depth_rule, "shape", lambda depth, width=0: shape(2, width or 64 * depth))
    # A narrow model's losses differ more between seeds, and take seconds.
    narrow, wide = best_rate(tmp_path, 1, (0, 1, 2)), best_rate(tmp_path, 8, (0,))
    assert max(narrow, wide) / min(narrow, wide) < 1.5, (narrow, wide)


def from_flags(*argv):
    return flags.from_flags(pretrain.Pretrain, list(argv))


def test_the_dial_sets_the_flags_and_says_so(capsys):
    cfg = from_flags("--depth=3", "--seq_len=256")
    scaled = depth_rule.scaled(3, 256)
    assert (cfg.model.model, cfg.optim.optimizer, cfg.optim.lr) == (scaled.model, "muon", scaled.lr)
    assert (cfg.data.batch_size, cfg.run.steps) == (scaled.batch_size, scaled.steps)
    assert cfg.optim.weight_decay == scaled.weight_decay
    assert cfg.depth.rates() == {"unembed": pytest.approx(2 / 3)}
    said = capsys.readouterr().err
    assert (
        said.startswith("--depth=3 is --model=nano,layers=3,")
        and f"--lr={scaled.lr} --adam_lr={scaled.adam_lr}" in said
    )
    typed = from_flags("--depth=3", "--lr=0.5", "--steps=100", "--weight_decay=0")
    assert (typed.optim.lr, typed.run.steps, typed.optim.weight_decay) == (0.5, 100, 0)
    assert "--lr" not in capsys.readouterr().err
    assert from_flags().depth.rates() == {} and capsys.readouterr().err == ""


def test_a_run_of_a_depth_trains_and_goes_on_with_its_values(bench):
    folder = bench.folder / "depth"
    small = ("--tokenizer=bpe:300", "--eval_share=0.2", "--seq_len=32", "--eval_every=0", "--sample_every=0")
    own = ("--depth=1", "--batch_size=8", "--steps=12", f"--workdir={folder}")
    bench.main(*own, small=small)
    arch = json.loads((folder / "config.json").read_text())["arch"]
    assert (arch["layers"], arch["width"], arch["tied"], arch["qk_norm"]) == (1, 64, False, True)
    call("export", f"--init_from={folder}", f"--to=hf:{bench.folder / 'depth-export'}")  # a Qwen 3
    losses = column(folder, "loss")
    assert losses[-1] < losses[0]
    assert "all 12 steps are done" in bench.main(*own, small=small)
    with pytest.raises(ConfigError, match=r"--depth: 1 -> 2"):
        bench.main("--depth=2", *own[1:], small=small)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--depth=3", "--model=nano"), "--model=nano: --depth=3 sets it; leave out one of them"),
        (("--depth=3", "--optimizer=adamw"), "--optimizer=adamw: the rule of --depth=3 is one for muon"),
        (("--depth=-1",), "--depth=-1: must be at least 0"),
        (("--depth=2000",), "--depth=2000: must be at most 1,000"),
        (("--depth=3", "--init_from=runs/pretrain"), "--depth=3: --init_from=runs/pretrain has a shape"),
        (("--depth=3", "--seq_len=0"), "--seq_len=0: must be at least 2"),
        (("--depth=3", "--batch_size=0"), "--batch_size=0: must be at least 1"),
    ],
)
def test_what_contradicts_it_is_refused(argv, message):
    with pytest.raises(ConfigError, match=message):
        from_flags(*argv)
