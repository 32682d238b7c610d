"""Rollouts from a server: ids in and out, what it cannot do, and what it says when it fails."""

import types

import numpy as np
import pytest

from jaxtrain.config import ConfigError
from jaxtrain.generate.batch_sampler import SampleRequest
from jaxtrain.inference import rollout_endpoint
from jaxtrain.inference.config import EndpointFlags
from jaxtrain.train import stop
from tests.remote import Remote, fault

END = 9
SETTINGS = EndpointFlags(timeout=5.0, retries=0, concurrency=4, use_cache=False)
REQUESTS = [SampleRequest([1, 2], [70, 71]), SampleRequest([3], [72, 73], limit=2)]


def choice(ids, finish="stop", logps=None, named=False):
    logps = [-float(i) for i in ids] if logps is None else logps
    tokens = [f"token_id:{i}" for i in ids] if named else ["x"] * len(ids)
    logprobs = {"tokens": tokens, "token_logprobs": logps}
    one = {"index": 0, "text": "", "finish_reason": finish, "logprobs": logprobs}
    return {
        "id": "cmpl-1",
        "object": "text_completion",
        "choices": [one | ({} if named else {"token_ids": ids})],
    }


def reply(request):
    ids = [request["prompt"][0], request["seed"] - 70, END][: request["max_tokens"]]
    return choice(ids, "stop" if ids[-1] == END else "length")


def sampled(server, requests=REQUESTS, ends=(END,), max_new=8, route=""):
    cfg = types.SimpleNamespace(
        sampler=types.SimpleNamespace(rollout_endpoint=server.url, rollout_weights=route),
        model=types.SimpleNamespace(dtype="float32"),
    )
    plan = types.SimpleNamespace(process=(0, 1), platform="cpu")
    session = types.SimpleNamespace(plan=plan, arch=types.SimpleNamespace(max_len=32), primary=False)
    make = rollout_endpoint.requests_of(cfg, SETTINGS)["requests"]
    return make(session, ends, max_new=max_new)("params", "base")(requests, 2)


def test_ids_and_log_probabilities_come_back_in_the_order_of_the_requests():
    with Remote(reply) as server:
        server.slow = 0.01
        found = sampled(server)
    assert [one.ids for one in found] == [[1, 0, END], [1, 1, END], [3, 2], [3, 3]]
    assert [one.ended for one in found] == [True, True, False, False]
    np.testing.assert_array_equal(found[1].logps, [-1, -1, -9])
    bodies = {body["seed"]: body for _, body, _ in server.seen}
    assert bodies[70] == {
        "model": "m", "prompt": [1, 2], "seed": 70, "max_tokens": 8, "temperature": 1.0, "logprobs": 1,
        "return_token_ids": True,
    }  # fmt: skip
    assert bodies[73]["max_tokens"] == 2 and 1 < server.most <= 4


@pytest.mark.parametrize("refuses", [True, False])
def test_ids_in_the_names_of_log_probabilities_are_taken_too(refuses):
    """Of servers that refuse return_token_ids, and of those that do not know it."""

    def older(request):
        if "return_tokens_as_token_ids" in request:
            return choice([1, END], named=True)
        return (
            (400, fault("return_token_ids is not permitted"))
            if refuses
            else {"choices": [{"text": "a", "logprobs": None}]}
        )

    with Remote(older) as server:
        assert [one.ids for one in sampled(server)] == [[1, END]] * 4


def test_log_probabilities_of_some_tokens_alone_are_none():
    with Remote(lambda request: choice([1, END], logps=[-1.0])) as server:
        assert all(one.logps is None for one in sampled(server))


@pytest.mark.parametrize(
    "answer, kind, message",
    [
        ({"choices": [{"text": "a"}]}, ConfigError, r"it returns no token ids .*use vLLM 0\.10\.2 or later"),
        (choice([1, 5]), stop.SavedFailure, "ended with the token 5, and those that end one here are 9"),
        (choice([]), stop.SavedFailure, "a malformed completion: it has no token"),
        ({"choices": []}, stop.SavedFailure, "a malformed completion"),
        (
            (500, fault("out of memory")),
            stop.SavedFailure,
            "out of memory.* It failed in sampling: the state of the",
        ),
        ((503, fault("loading")), stop.SavedFailure, "the same command goes on"),
    ],
)
def test_what_cannot_be_used_says_what_to_do(answer, kind, message):
    with Remote(lambda request: answer) as server, pytest.raises(kind, match=message):
        sampled(server)


def test_an_endpoint_that_is_gone_saves_the_run():
    cfg = types.SimpleNamespace(model=types.SimpleNamespace(dtype="float32"))
    with Remote(reply) as server:
        cfg.sampler = types.SimpleNamespace(rollout_endpoint=server.url, rollout_weights="")
        make = rollout_endpoint.requests_of(cfg, SETTINGS)["requests"]
    plan = types.SimpleNamespace(process=(0, 1), platform="cpu")
    session = types.SimpleNamespace(plan=plan, arch=types.SimpleNamespace(max_len=32), primary=False)
    with pytest.raises(stop.SavedFailure, match="the state of the last whole iteration is saved"):
        make(session, (END,), max_new=4)("params", "base")(REQUESTS, 2)


def test_without_the_flag_there_is_nothing():
    cfg = types.SimpleNamespace(sampler=types.SimpleNamespace(rollout_endpoint="", rollout_weights=""))
    assert rollout_endpoint.requests_of(cfg) == {}
