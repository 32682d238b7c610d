"""Tasks see the model that a run trains: its log-probabilities and completions, whatever the plan and the batches."""

import functools
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxtrain import config
from jaxtrain.config import Failure
from jaxtrain.data.tokenizer import ByteTokenizer
from jaxtrain.models import transformer
from jaxtrain.ops.logprobs import logits
from jaxtrain.stages import task_models, weights
from jaxtrain.stages.init_from import InitFrom
from jaxtrain.tasks import task_model
from jaxtrain.tasks.task_model import TextPrompt
from jaxtrain.train import parallel
from tests import tiny

BYTES = ByteTokenizer()
CONTEXT = 48
ARCH = tiny.shrink("gpt2", layers=1, vocab=BYTES.vocab_size, max_len=CONTEXT)
TEXTS = [("the ship ", "went"), ("", "a whale"), ("x" * 90, "yz"), ("by night the old", " saw a white whale")]
PLANS = {"one": ("pmap", ""), "pmap": ("pmap", "data:4"), "mesh": ("mesh", "data:2,fsdp:2")}


@functools.cache
def opened(name, batch_size=8):
    """What the models need of a config and a session, and parameters."""
    kind, mesh = PLANS[name]
    plan = parallel.make(config.Run(parallel=kind, mesh=mesh), jax.devices()[: 1 if name == "one" else 4])
    model = transformer.build(ARCH, tiny.how(local=plan.local))
    cfg = SimpleNamespace(
        run=config.Run(), optim=config.Optim(), data=config.Corpus(batch_size=batch_size, seq_len=32)
    )
    session = SimpleNamespace(
        plan=plan, arch=ARCH, model=model, trained=weights.trained_part(model.axes, config.Lora()), heads=None,
        base=(), start=InitFrom(ARCH, BYTES, {}),
    )  # fmt: skip
    return cfg, session, plan.init(lambda: model.init(jax.random.key(1)), model.axes)


def by_hand(session, params, pair):
    """The same from the logits of one row without padding."""
    ids = np.concatenate(pair)
    T = len(ids) - 1
    batch = {
        "tokens": ids[None, :-1], "positions": np.arange(T)[None], "segments": np.ones((1, T), np.int32),
    }  # fmt: skip
    whole = session.plan.get(params)
    x = jax.nn.log_softmax(logits(session.model.hidden(whole, batch), session.model.head(whole)))[0]
    own = np.arange(len(pair[0]) - 1, T)
    return np.asarray(x)[own, pair[1]], np.asarray(x.argmax(-1))[own] == pair[1]


@pytest.mark.parametrize("plan", PLANS)
def test_log_probabilities_are_the_models_in_any_batches(plan):
    cfg, session, params = opened(plan)
    models = task_models.open_models(cfg, session)
    model = models.of_params(params)
    pairs = [task_model.tokenize_pair(model, *pair) for pair in TEXTS] * 3
    found = model.logps(pairs)
    assert models.take_cut() == 1 and models.take_cut() == 0, "one of them is longer than the context"
    for (logps, likeliest), pair in zip(found, pairs, strict=True):
        expected, best = by_hand(session, params, pair)
        np.testing.assert_allclose(logps, expected, atol=2e-5)
        assert likeliest.tolist() == best.tolist() and len(logps) == len(pair[1])
    assert model.logps([]) == []


def test_a_call_has_no_more_tokens_than_a_step(monkeypatch):
    cfg, session, params = opened("one", batch_size=4)
    sizes, put = [], session.plan.put
    session.plan = session.plan._replace(put=lambda batch: sizes.append(batch["tokens"].shape) or put(batch))
    model = task_models.open_models(cfg, session).of_params(params)
    pairs = [task_model.tokenize_pair(model, "x" * n, "yz") for n in (3, 20, 40, 5, 4, 4, 3, 9)]
    model.logps(pairs)
    assert sizes == [(2, 64), (4, 32), (2, 32)] and all(rows * width <= 4 * 32 for rows, width in sizes)


def test_completions_are_the_likeliest_tokens_up_to_a_stop():
    cfg, session, params = opened("one")
    model = task_models.open_models(cfg, session).of_params(params)
    ids = task_model.after_bos(model, BYTES.encode(["the ship "])[0]).tolist()
    start, every = len(ids), np.arange(BYTES.vocab_size)[:, None].astype(np.int32)
    for _ in range(6):
        scores = model.logps([(np.array(ids, np.int32), one) for one in every])
        assert sum(likeliest[0] for _, likeliest in scores) == 1
        ids.append(int(np.argmax([logps[0] for logps, _ in scores])))
    assert BYTES.eos not in ids
    (whole,) = model.generate([TextPrompt("the ship ", 6)])
    assert whole == BYTES.decode(ids[start:])
    stop = whole[-1]
    cut, other, short = model.generate(
        [TextPrompt("the ship ", 6, stops=("", stop)), TextPrompt("whale", 6), TextPrompt("the ship ", 2)]
    )
    assert cut == whole[: whole.find(stop)] and other != whole
    assert short == BYTES.decode(ids[start : start + 2])
    assert model.generate([]) == []


def test_what_is_sampled_is_of_its_number_and_the_seed_alone():
    cfg, session, params = opened("one")
    model = task_models.open_models(cfg, session).of_params(params)
    prompts = [TextPrompt("whale", 8, 1.0, number=n) for n in (1, 2)]
    first, second = model.generate(prompts)
    assert first != second and model.generate(prompts[::-1]) == [second, first]


def test_a_prompt_leaves_room_for_its_completion():
    cfg, session, params = opened("one")
    models = task_models.open_models(cfg, session)
    model = models.of_params(params)
    long, end = model.generate([TextPrompt("ab" * 40, 8), TextPrompt(("ab" * 40)[-CONTEXT + 8 :], 8)])
    assert models.take_cut() == 2 and long == end, "what is read is the end of both"
    with pytest.raises(Failure, match=r"a completion of 48 tokens \(max_gen_toks\) leaves no room"):
        model.generate([TextPrompt("a", CONTEXT)])
