"""A local run as an LLM, on a tiny model: grouping of requests, refusals, log-probabilities and embeddings."""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.data.tokenizer import ByteTokenizer
from jaxtrain.inference import local
from jaxtrain.inference.config import EndpointFlags, MachineFlags
from jaxtrain.inference.llm import CUT_OFF, REFUSED, Request, user_messages
from jaxtrain.inference.sampler import SampledText
from jaxtrain.models import transformer
from jaxtrain.ops.logprobs import logits
from jaxtrain.train import parallel
from tests import tiny

ARCH = tiny.shrink("gpt2", layers=1, vocab=320, max_len=64)
NEW = 8


@functools.cache
def loaded():
    plan = parallel.make(config.Run())
    model = transformer.build(ARCH, tiny.how(local=plan.local))
    return plan, model, plan.init(lambda: model.init(jax.random.key(0)), model.axes)


@pytest.fixture
def llm(monkeypatch):
    plan, model, params = loaded()
    start = SimpleNamespace(
        arch=ARCH, tokenizer=ByteTokenizer(), lineage={"origin": "runs/sft@8"}, generation={}
    )
    monkeypatch.setattr(local.init_from, "load_run", lambda text, flag, causal: start)
    monkeypatch.setattr(local, "inference_plan", lambda run, cache_dir: plan)
    monkeypatch.setattr(local, "load_model", lambda start, plan, settings: (model, params, plan, start))
    return local.open_llm("runs/sft", "generator", EndpointFlags(), MachineFlags(), NEW)


@functools.cache
def logps(ids):
    """The model's log-probabilities f32[T, V] by the training forward pass."""
    params = loaded()[2]
    tokens, places = np.array([ids], np.int32), np.arange(len(ids), dtype=np.int32)[None]
    batch = {"tokens": tokens, "positions": places, "segments": np.ones_like(places)}
    plain, host = transformer.build(ARCH, tiny.how()), jax.tree.map(np.asarray, params)
    return np.asarray(jax.nn.log_softmax(logits(plain.hidden(host, batch), plain.head(host)))[0])


def test_requests_are_grouped_by_what_one_call_can_sample():
    one = Request(user_messages("a"))
    requests = [one, one._replace(samples=3), one._replace(raw=True), one, one._replace(samples=3)]
    assert local._calls(requests, set()) == [[0, 3], [1, 4], [2]]
    assert local._calls(requests, {0, 4}) == [[1], [2], [3]]
    many = [one._replace(samples=local.AT_ONCE // 2)] * 5
    assert [len(call) for call in local._calls(many, set())] == [2, 2, 1]


def test_a_completion_does_not_depend_on_the_other_requests_and_a_full_prompt_is_refused(llm):
    one = Request(user_messages("Hi"), samples=2, seed=3, max_new=5)
    ((a, b),) = llm.generate([one])
    assert a.text != b.text and {a.finish_reason, b.finish_reason} <= {"stop", CUT_OFF}
    mixed = llm.generate(
        [Request(user_messages("x" * 70), samples=2), Request(user_messages("no"), seed=1), one]
    )
    assert [done.finish_reason for done in mixed[0]] == [REFUSED] * 2 and mixed[2] == [a, b]
    assert llm.name == "runs/sft@8" and not llm.chat and not llm.remote
    assert (llm.usage.requests, llm.usage.refused) == (3, 1) and llm.usage.tokens_out > 0


def test_log_probabilities_are_those_of_the_forward_pass(llm):
    prompt, ids = llm.local.template.encode_prompt(user_messages("Hi")), [5, 300, 9]
    rows = logps((*map(int, prompt), *ids))[len(prompt) - 1 : -1]
    own, decode = rows[np.arange(3), ids], llm.local.template.tokenizer.decode
    forward, texts = local.forward_fn(*loaded()), [SampledText("", ids, True, 0.0)] * 2
    tokens, again = local._token_logprobs(forward, llm.local.template, prompt, texts, 3)
    assert tokens == again and local._token_logprobs(forward, None, prompt, texts, 0) == [None, None]
    for one, i, value, row in zip(tokens, ids, own, rows, strict=True):
        assert one.token == decode([i]) and one.logprob == pytest.approx(value, abs=1e-4)
        np.testing.assert_allclose([x for _, x in one.top], np.sort(row)[::-1][:3], atol=1e-4)
        assert one.top[0][0] == decode([int(row.argmax())])
    ((values, likeliest),) = llm.local.logps([(prompt, np.array(ids))])
    np.testing.assert_allclose(values, own, atol=1e-4)
    assert likeliest.tolist() == (rows.argmax(-1) == ids).tolist()


def test_only_a_request_for_them_has_log_probabilities(llm):
    one = Request(user_messages("Hi"), seed=3, max_new=5)
    ((plain,), (done,)) = llm.generate([one, one._replace(top_logprobs=2)])
    assert plain.logprobs is None and plain.text == done.text
    assert all(len(token.top) == 2 and token.logprob <= token.top[0][1] + 1e-5 for token in done.logprobs)


def test_an_embedding_is_of_the_text_alone(llm):
    texts = ["How do I wash a bike?", "What is 3 + 4?", "How do I wash a bike?"]
    vectors = llm.embed(texts)
    assert vectors.shape == (3, ARCH.width) and np.allclose(vectors[0], vectors[2])
    assert not np.allclose(vectors[0], vectors[1])
    np.testing.assert_allclose(llm.embed(texts[1:2])[0], vectors[1], atol=1e-5)
    assert np.isfinite(llm.embed(["x" * 200])).all(), "of a long text its beginning"


def test_several_processes_are_refused(monkeypatch, llm):
    plan = loaded()[0]._replace(process=(0, 2))
    monkeypatch.setattr(local, "inference_plan", lambda run, cache_dir: plan)
    with pytest.raises(ConfigError, match="--judge=x: a run is sampled in one process"):
        local.open_llm("x", "judge", EndpointFlags(), dataclasses.replace(MachineFlags()), NEW)


@pytest.mark.parametrize("prompt, text, thought, answer", [
    ("Hi<think>\n", "hm</think>\n\nYes.", "hm", "Yes."),
    ("Hi<think>\n", "hm", "hm", ""),
    ("Hi", "<think>hm</think>Yes.", "hm", "Yes."),
    ("Hi", "hm</think>\n\nYes.", "", "hm</think>\n\nYes."),
])  # fmt: skip
def test_the_thought_of_a_run_is_apart_from_its_answer(monkeypatch, prompt, text, thought, answer):
    """A prompt that opens the thought makes what comes up to its end one; in a text that is continued nothing does."""
    plan, model, params = loaded()
    tokenizer = ByteTokenizer()
    template = SimpleNamespace(
        encode_prompt=lambda messages: tokenizer.encode([prompt])[0],
        tokenizer=tokenizer,
        ends=(tokenizer.eos,),
        notes=(),
    )
    own = SimpleNamespace(chat_template="a template", encode=tokenizer.encode)
    start = SimpleNamespace(arch=ARCH, tokenizer=own, lineage={}, generation={})
    sampled = SampledText(text, [int(i) for i in tokenizer.encode([text])[0]], True, 0.0)
    sampler = SimpleNamespace(sample=lambda requests: [sampled] * len(requests))
    monkeypatch.setattr(local.init_from, "load_run", lambda text, flag, causal: start)
    monkeypatch.setattr(local, "inference_plan", lambda run, cache_dir: plan)
    monkeypatch.setattr(local, "load_model", lambda start, plan, settings: (model, params, plan, start))
    monkeypatch.setattr(local.chat, "load_template", lambda name, tokenizer, **more: template)
    monkeypatch.setattr(local, "text_sampler", lambda *args: sampler)
    llm = local.open_llm("runs/sft", "generator", EndpointFlags(), MachineFlags(), NEW)
    chat, raw = llm.generate([Request(user_messages("Hi")), Request(user_messages("Hi"), raw=True)])
    assert (chat[0].thought, chat[0].text) == (thought, answer)
    assert (raw[0].thought, raw[0].text) == ("", text)
