"""The API through the official client: completions alone, streamed and concurrent, and refused requests."""

import concurrent.futures
import http.client
import json

import jax
import numpy as np
import openai
import pytest

from jaxtrain.ops.logprobs import logits
from tests.apps.serve.conftest import (
    BODY,
    CONTEXT,
    HI,
    KEY,
    NAME,
    ROWS,
    WAITING,
    eventually,
    make_server,
    model,
    running,
    template,
)

PLACES = 64


def chat(client, messages=HI, **options):
    return client.chat.completions.create(
        **{"model": NAME, "messages": messages, "seed": 1, "max_tokens": 12, **options}
    )


@pytest.fixture(scope="module")
def forward():
    """Log-probabilities f32[T, V] of every next token, by the forward pass of training."""
    lm, params, _ = model()

    @jax.jit
    def run(tokens):
        places = np.arange(PLACES, dtype=np.int32)[None]
        batch = {"tokens": tokens, "positions": places, "segments": np.ones_like(places)}
        return jax.nn.log_softmax(logits(lm.hidden(params, batch), lm.head(params)))[0]

    def logps(ids):
        return np.asarray(run(np.pad(np.asarray(ids, np.int32), (0, PLACES - len(ids)))[None]))

    return logps


def forward_logits(ids):
    """Logits f32[T, V] of every next token, by the forward pass of training."""
    lm, params, _ = model()
    places = np.arange(len(ids), dtype=np.int32)[None]
    batch = {"tokens": np.asarray(ids, np.int32)[None], "positions": places, "segments": np.ones_like(places)}
    return np.asarray(logits(lm.hidden(params, batch), lm.head(params))[0])


def test_a_completion_is_the_same_whole_and_streamed(client):
    whole = chat(client, n=3)
    assert [one.index for one in whole.choices] == [0, 1, 2]
    assert len({one.message.content for one in whole.choices}) == 3
    texts, ends, usage = ["", "", ""], {}, None
    chunks = list(chat(client, n=3, stream=True, stream_options={"include_usage": True}))
    for chunk in chunks:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            assert (choice.delta.role == "assistant") == (
                not texts[choice.index] and choice.index not in ends
            )
            texts[choice.index] += choice.delta.content or ""
            if choice.finish_reason:
                ends[choice.index] = choice.finish_reason
    assert texts == [one.message.content for one in whole.choices]
    assert ends == {one.index: one.finish_reason for one in whole.choices}
    assert usage == whole.usage and whole.usage.total_tokens == whole.usage.prompt_tokens + 36
    assert len({chunk.id for chunk in chunks}) == 1 and len(chunks) > 9
    assert chunks[-1].choices == [] and chat(client).choices[0].message.content == texts[0]


def test_concurrent_requests_get_the_same_completions_as_alone(client):
    def one(seed):
        return chat(client, seed=seed, temperature=0.7 + 0.1 * seed, top_p=0.9).choices[0].message.content

    alone = [one(seed) for seed in range(5)]
    with concurrent.futures.ThreadPoolExecutor(ROWS + WAITING) as pool:
        assert list(pool.map(one, range(5))) == alone
    assert len({*alone}) == 5


def test_logprobs_are_the_models_own_at_temperature_1(client, forward):
    response = chat(client, logprobs=True, top_logprobs=4, temperature=0.6, top_p=0.8, store=True)
    stored = client.chat.completions.retrieve(response.id).to_dict()
    ids, tops = stored["choices"][0]["token_ids"], stored["choices"][0]["top_token_ids"]
    prompt = template().encode_prompt(HI).tolist()
    assert stored["prompt_token_ids"] == prompt and len(ids) == response.usage.completion_tokens
    wanted = forward([*prompt, *ids])[len(prompt) - 1 :]
    content = response.choices[0].logprobs.content
    for place, (entry, i, top) in enumerate(zip(content, ids, tops, strict=True)):
        assert entry.logprob == pytest.approx(wanted[place, i], abs=1e-4)
        assert len(top) == 4 and top == np.argsort(-wanted[place])[:4].tolist()
        np.testing.assert_allclose([one.logprob for one in entry.top_logprobs], wanted[place, top], atol=1e-4)
        assert bytes(entry.bytes) == (bytes([i]) if i < 256 else b"")
    text = b"".join(bytes(entry.bytes) for entry in content)
    assert text.decode(errors="replace") == response.choices[0].message.content
    streamed = [
        c.choices[0].logprobs for c in chat(client, logprobs=True, temperature=0.6, top_p=0.8, stream=True)
    ]
    tokens = [(one.token, one.logprob) for part in streamed for one in part.content]
    assert [name for name, _ in tokens] == [one.token for one in content]
    np.testing.assert_allclose([logp for _, logp in tokens], [one.logprob for one in content], atol=1e-4)


def test_a_stop_ends_the_text_before_it_and_has_no_logprobs(client):
    free = chat(client, max_tokens=40, logprobs=True)
    text = free.choices[0].message.content
    at = next(
        i for i in range(8, len(text) - 3) if "�" not in text[i : i + 2] and text.find(text[i : i + 2]) == i
    )
    for stream in (False, True):
        response = chat(
            client, max_tokens=40, stop=["no such text", text[at : at + 2]], logprobs=True, stream=stream
        )
        if stream:
            chunks = list(response)
            shown = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
            content = [one for chunk in chunks for one in chunk.choices[0].logprobs.content]
            end = chunks[-1].choices[0].finish_reason
        else:
            choice = response.choices[0]
            shown, content, end = choice.message.content, choice.logprobs.content, choice.finish_reason
            assert response.usage.completion_tokens >= len(content) + 2, "the tokens of the stop count"
        assert (shown, end) == (text[:at], "stop")
        assert b"".join(bytes(one.bytes) for one in content).decode(errors="replace") == shown


def test_temperature_0_takes_the_likeliest_and_the_seed_does_not_matter(client, forward):
    one, other = (chat(client, temperature=0, seed=seed, logprobs=True, top_logprobs=1) for seed in (1, 2))
    assert one.choices[0].message.content == other.choices[0].message.content
    for entry in one.choices[0].logprobs.content:
        assert entry.logprob == entry.top_logprobs[0].logprob


def test_sampling_parameters_are_those_of_their_definitions(client, forward):
    """With top_k=1 or min_p=1 the likeliest token is left; the penalty counts prompt and completion."""
    likeliest = chat(client, temperature=0).choices[0].message.content
    for one in ({"top_k": 1}, {"min_p": 1.0}, {"top_k": 3, "min_p": 1.0}):
        assert chat(client, seed=9, extra_body=one).choices[0].message.content == likeliest
    response = chat(client, temperature=0, extra_body={"repetition_penalty": 1.7}, store=True)
    stored = client.chat.completions.retrieve(response.id).to_dict()
    ids, prompt = stored["choices"][0]["token_ids"], stored["prompt_token_ids"]
    assert stored["repetition_penalty"] == 1.7 and "min_p" not in stored
    raw = forward_logits([*prompt, *ids])
    for place, token in enumerate(ids):
        row = raw[len(prompt) - 1 + place].astype(np.float64)
        seen = [*{*prompt, *ids[:place]}]
        row[seen] = np.where(row[seen] > 0, row[seen] / 1.7, row[seen] * 1.7)
        assert row[token] >= row.max() - 1e-4
    assert response.choices[0].message.content != likeliest


def test_min_p_and_top_k_leave_the_tokens_of_their_definitions(client, forward):
    prompt = template().encode_prompt(HI).tolist()
    logps = forward(prompt)[len(prompt) - 1].astype(np.float64)
    shares = np.sort(np.exp(logps - logps.max()))[::-1]
    for name, value in (("min_p", float(shares[3] + shares[4]) / 2), ("top_k", 4)):
        drawn = set()
        for seed in range(6):
            response = chat(client, seed=seed, n=3, max_tokens=1, store=True, extra_body={name: value})
            stored = client.chat.completions.retrieve(response.id).to_dict()
            drawn |= {one["token_ids"][0] for one in stored["choices"]}
        assert drawn <= {*np.argsort(-logps)[:4].tolist()} and len(drawn) > 1, name


def test_no_request_compiles_a_program(client):
    compiled = []
    chat(client)
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: compiled.append(name))
    for body in ({}, {"top_k": 3}, {"min_p": 0.2}, {"repetition_penalty": 1.3}, {"top_k": 9, "min_p": 0.1}):
        chat(client, temperature=0.7, top_p=0.9, extra_body=body)
    assert not [name for name in compiled if "backend_compile" in name]


def test_legacy_completions_continue_texts_and_ids(client):
    params = {"model": NAME, "seed": 5, "max_tokens": 6, "logprobs": 2}
    response = client.completions.create(prompt=["ab", "xyz"], n=2, **params)
    assert [one.index for one in response.choices] == [0, 1, 2, 3]
    assert response.usage.prompt_tokens == 3 + 4 and response.usage.completion_tokens == 24
    ids = [template().tokenizer.bos, *b"ab"]
    again = client.completions.create(prompt=ids, n=2, **params)
    assert [one.text for one in again.choices] == [one.text for one in response.choices[:2]]
    logprobs = response.choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == 6
    assert logprobs.text_offset[0] == 0 and all(len(one) == 2 for one in logprobs.top_logprobs)
    stream = client.completions.create(prompt="ab", stream=True, **params)
    assert "".join(chunk.choices[0].text for chunk in stream) == response.choices[0].text


def test_an_echoed_prompt_has_the_log_probabilities_of_the_model(client, forward):
    """What lm-eval sends for a log-likelihood."""
    ids = [template().tokenizer.bos, *b"What is 3 + 4? It is 7."]
    body = {"model": NAME, "temperature": 0, "logprobs": 1, "echo": True, "seed": 1}
    whole = client.completions.create(prompt=[ids, ids[:9]], max_tokens=1, **body)
    wanted = forward(ids)
    for choice, n in zip(whole.choices, (len(ids), 9), strict=True):
        logprobs = choice.logprobs
        assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.text_offset) == n + 1
        assert logprobs.token_logprobs[0] is None and logprobs.top_logprobs[0] is None
        own = [wanted[t, token] for t, token in enumerate(ids[1:n])]
        np.testing.assert_allclose(logprobs.token_logprobs[1:n], own, atol=1e-4)
        tops = [max(top.values()) for top in logprobs.top_logprobs[1:]]
        np.testing.assert_allclose(tops, wanted[:n].max(-1), atol=1e-4)
        assert choice.text.startswith(bytes(ids[1:n]).decode()) and logprobs.text_offset[1:3] == [0, 1]
    none = client.completions.create(prompt="It is 7.", max_tokens=0, **body)
    (choice,) = none.choices
    assert (
        choice.text == "It is 7." and choice.finish_reason == "length" and none.usage.completion_tokens == 0
    )
    assert len(choice.logprobs.token_logprobs) == 1 + len("It is 7.")
    del body["logprobs"]
    assert client.completions.create(prompt="It", max_tokens=2, **body).choices[0].text.startswith("It")
    for wrong in ({"max_tokens": 0, "echo": False}, {"stream": True}):
        with pytest.raises(openai.BadRequestError):
            client.completions.create(prompt="It", **body | wrong)


def test_models(client):
    assert [one.id for one in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).owned_by == "jaxtrain"
    with pytest.raises(openai.NotFoundError, match="'gpt' does not exist here: 'tiny' does"):
        client.models.retrieve("gpt")


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"extra_body": {"colour": 1}}, "unknown_parameter", "Unknown parameter: 'colour'"),
        ({"frequency_penalty": 0.5}, "unsupported_value", "frequency_penalty: 0.5 is not supported"),
        ({"presence_penalty": 0.5}, "unsupported_value", "presence_penalty: 0.5 is not supported"),
        ({"logit_bias": {"5": 1}}, "unsupported_value", "logit_bias: "),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "unsupported_value", "plain writes nothing of"),
        ({"tools": [{"type": "function", "name": "f"}]}, "invalid_value", "tools[0]: it must be"),
        ({"tools": [{"type": "web_search"}]}, "invalid_value", "no other tool is known"),
        ({"tool_choice": "required"}, "unsupported_value", "only none and auto are supported"),
        ({"reasoning_effort": "high"}, "unsupported_value", "plain reads no reasoning_effort"),
        ({"verbosity": "low"}, "unsupported_value", "plain reads no verbosity"),
        ({"prediction": {"type": "x"}}, "invalid_value", "an object of type content"),
        ({"extra_body": {"chat_template_kwargs": {"thinking": True}}}, "unsupported_value", "plain reads no thinking"),
        ({"extra_body": {"chat_template_kwargs": {"messages": []}}}, "invalid_value", "chat_template_kwargs.messages"),
        ({"extra_body": {"top_k": -2}}, "invalid_value", "top_k: it must be a whole number from -1"),
        ({"extra_body": {"top_k": 2.5}}, "invalid_value", "not 2.5"),
        ({"extra_body": {"min_p": 1.5}}, "invalid_value", "min_p: it must be a number from 0 to 1"),
        ({"extra_body": {"repetition_penalty": 0}}, "invalid_value", "repetition_penalty: it must be"),
        ({"extra_body": {"ignore_eos": True}}, "unsupported_value", "ignore_eos: true is not supported"),
        ({"extra_body": {"guided_json": {}}}, "unsupported_value", "guided_json"),
        ({"user": 3}, "invalid_value", "user: it must be text"),
        ({"response_format": {"type": "json_object"}}, "unsupported_value", "response_format"),
        ({"temperature": 2.5}, "invalid_value", "temperature: it must be a number from 0 to 2, not 2.5"),
        ({"temperature": "hot"}, "invalid_value", 'not "hot"'),
        ({"top_p": 0}, "invalid_value", "top_p"),
        ({"n": 0}, "invalid_value", "n: it must be a whole number from 1 to 128, not 0"),
        ({"n": 100}, "invalid_value", f"{ROWS + WAITING} completions at once"),
        ({"max_tokens": True}, "invalid_value", "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "invalid_value", "leave out one of them"),
        ({"stop": [""]}, "invalid_value", "the empty text would end every completion"),
        ({"stop": list("abcdefghijklmnopq")}, "invalid_value", "at most 16"),
        ({"top_logprobs": 3}, "invalid_value", "it needs logprobs=true"),
        ({"logprobs": True, "top_logprobs": 21}, "invalid_value", "from 0 to 20, not 21"),
        ({"store": True, "metadata": {"a": 1}}, "invalid_value", "metadata.a: it must be text, not 1"),
        ({"store": True, "metadata": {"k" * 65: "v"}}, "invalid_value", "a key has at most 64"),
        ({"stream": True, "stream_options": {"continuous_usage_stats": True}}, "unsupported_value", "continuous_usage"),
        ({"stream": True, "stream_options": {"colour": 1}}, "unknown_parameter", "stream_options.colour"),
        ({"messages": []}, "invalid_value", "an empty one"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "invalid_value", "unknown role"),
        ({"messages": [{"role": "user", "content": "x", "mood": 1}]}, "unknown_parameter", "messages[0].mood"),
        ({"messages": [{"role": "user", "content": None}]}, "invalid_value", "messages[0].content: it must be"),
        ({"messages": [{"role": "user", "content": 5}]}, "invalid_value", "not a number"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
         "invalid_value", "image_url"),
        ({"messages": [*HI, {"role": "assistant", "tool_calls": [{"function": {}}]}]}, "invalid_value", "has a name"),
        ({"messages": [*HI, {"role": "assistant", "tool_calls": "x"}]}, "invalid_value", "a list of calls, not text"),
        ({"messages": [{"role": "tool", "content": "4"}]}, "invalid_value", "plain has no place for tool"),
        ({"messages": [{"role": "user", "content": "x" * CONTEXT}]}, "context_length_exceeded", f"length is {CONTEXT}"),
        ({"max_tokens": CONTEXT}, "context_length_exceeded", f"{CONTEXT} in the completion"),
    ],
)  # fmt: skip
def test_an_unsupported_parameter_is_refused_by_name(client, changes, code, words):
    with pytest.raises(openai.BadRequestError) as error:
        chat(client, **changes)
    assert error.value.code == code and words in error.value.message
    assert error.value.body["type"] == "invalid_request_error"


def test_neutral_values_are_served(client):
    neutral = {
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "logit_bias": {},
        "tool_choice": "none",
        "user": None,
    }
    more = {
        "response_format": {"type": "text"},
        "modalities": ["text"],
        "parallel_tool_calls": True,
        "metadata": {"of": "nothing"},
        "prediction": {"type": "content", "content": "Yo."},
        "prompt_cache_key": "key",
        "reasoning_effort": "medium",
        "safety_identifier": "someone",
        "service_tier": "flex",
        "stream_options": {"include_usage": True},
        "verbosity": "medium",
        "max_completion_tokens": 12,
    }
    of_vllm = {
        "tools": [],
        "audio": None,
        "chat_template_kwargs": {"enable_thinking": False},
        "top_k": -1,
        "min_p": 0,
        "repetition_penalty": 1,
        "min_tokens": 0,
        "ignore_eos": False,
        "stop_token_ids": [],
        "skip_special_tokens": True,
        "add_generation_prompt": True,
        "priority": 0,
    }
    plain = chat(client).choices
    assert chat(client, **neutral | {"user": "someone"}, **more, extra_body=of_vllm).choices == plain
    assert chat(client, **neutral).choices == plain
    streamed = chat(client, stream=True, **more | {"stream_options": {"include_obfuscation": True}})
    assert "".join(one.choices[0].delta.content or "" for one in streamed) == plain[0].message.content
    answer = chat(client).choices[0].message.to_dict() | {"content": "Yo."}
    assert chat(client, messages=[*HI, answer, *HI]).usage.prompt_tokens > chat(client).usage.prompt_tokens


def test_wrong_keys_models_and_paths(server, client):
    with server.client("another") as stranger, pytest.raises(openai.AuthenticationError) as error:
        chat(stranger)
    assert error.value.code == "invalid_api_key" and error.value.body["type"] == "authentication_error"
    with pytest.raises(openai.NotFoundError) as error:
        chat(client, model="gpt-9")
    assert error.value.code == "model_not_found"
    for path, wanted in (("/v1/embeddings", 404), ("/v1/models/tiny", 405)):
        status, body = post(server, path, b"{}")
        assert status == wanted and body["error"]["code"] == "unknown_url"


def post(server, path, body, **headers):
    link = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=10)
    link.request("POST", path, body, {"Authorization": f"Bearer {KEY}", **headers})
    response = link.getresponse()
    text = response.read()
    link.close()
    return response.status, json.loads(text)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{", 400, "the body is not JSON"),
        (b"\xff", 400, "the body is not UTF-8, at byte 0"),
        (b'{"\xed\xa0\x80": 1}', 400, "the body is not UTF-8, at byte 2"),
        ("{}".encode("utf-16"), 400, "the body is not UTF-8, at byte 0"),
        (b'{"\\ud800": 1}', 400, "Unknown parameter: '\\ud800'"),
        (
            b'{"model": "m", "messages": [{"role": "user", "content": "", "\\udc00": 1}]}',
            400,
            "messages[0].\\udc00",
        ),
        (b"[1]", 400, "not a JSON object but list"),
        (b'{"temperature": NaN}', 400, "NaN is not a number"),
        (b"[" * 10_000, 400, "the body is not JSON"),
        (b'{"model": "tiny", "tools": ' + b"[" * 500 + b"]" * 500 + b"}", 400, "more than 100 levels"),
        (b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}', 400, "half a surrogate"),
        (b"{}", 400, "Missing required parameter: 'model'"),
        (b" " * (BODY + 1), 413, f"larger than {BODY:,} bytes"),
    ],
)
def test_invalid_bodies(server, body, status, words):
    response_status, response = post(server, "/v1/chat/completions", body)
    assert response_status == status and words in response["error"]["message"]


def test_a_body_without_a_length_is_measured_as_it_comes(server):
    status, response = post(server, "/v1/chat/completions", iter([b" " * 1000] * 30))
    assert status == 413 and response["error"]["code"] == "request_too_large"


def test_a_client_that_disconnects_frees_its_row(server, client):
    tokens, disconnected = (
        server.metric(f"jaxtrain_{n}") for n in ('tokens_total{kind="completion"}', "given_up_total")
    )
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    with server.client() as leaver:
        stream = chat(leaver, max_tokens=400, n=2, stream=True, store=True, metadata={"left": "yes"})
        next(iter(stream))
        stream.close()
    assert eventually(lambda: server.state.scheduler.counts == (0, 0))
    left = http.client.HTTPConnection(server.url.removeprefix("http://"))
    request = {"model": NAME, "messages": HI, "seed": 1, "max_tokens": 480, "n": ROWS}
    left.request("POST", "/v1/chat/completions", json.dumps(request), headers)
    assert eventually(lambda: server.state.scheduler.counts != (0, 0))
    left.close()
    assert eventually(lambda: server.state.scheduler.counts == (0, 0))
    assert eventually(lambda: server.metric("jaxtrain_given_up_total") == disconnected + 2)
    assert server.metric('jaxtrain_tokens_total{kind="completion"}') - tokens < 400 * 2 + 480 * ROWS
    assert client.chat.completions.list(metadata={"left": "yes"}).data == [], (
        "a completion whose client disconnected is not stored"
    )


def test_more_requests_than_the_capacity_get_429(server, client):
    with server.client() as others:
        streams = [chat(others, max_tokens=400, stream=True) for _ in range(ROWS + WAITING)]
        with pytest.raises(openai.RateLimitError) as error:
            chat(client)
        assert (
            error.value.response.headers["retry-after"] == "1" and error.value.code == "rate_limit_exceeded"
        )
        for stream in streams:
            stream.close()
    assert eventually(lambda: server.state.scheduler.counts == (0, 0))
    assert chat(client).choices[0].message.content


def test_health_and_metrics(server, client):
    chat(client)
    link = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=10)
    link.request("GET", "/health")
    health = json.loads(link.getresponse().read())
    assert health == {"status": "ok", "model": NAME, "busy": 0, "waiting": 0, "rows": ROWS}
    link.request("GET", "/metrics")
    response = link.getresponse()
    assert response.headers["content-type"].startswith("text/plain")
    metrics = response.read().decode()
    link.close()
    assert 'jaxtrain_requests_total{endpoint="POST /v1/chat/completions",status="200"}' in metrics
    assert "jaxtrain_first_token_seconds_bucket" in metrics and f"jaxtrain_rows {float(ROWS)}" in metrics


def test_without_a_key_only_programs_on_this_machine_are_served():
    with running(make_server(None, key="")) as server:
        with server.client("anything") as client:
            assert chat(client).choices[0].message.content
            with pytest.raises(openai.BadRequestError, match="without a store"):
                chat(client, store=True)
            with pytest.raises(openai.NotFoundError, match="without a store"):
                client.chat.completions.list()
        own = {"Origin": server.url, "Sec-Fetch-Site": "same-origin"}
        assert post(server, "/v1/chat/completions", b"{}", **own)[0] == 400, "its own page"
        for headers in (
            {"Host": "evil.example"},
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Origin": "http://["},
            {"Origin": "http://127.0.0.1:1"},
            {"Origin": server.url, "Sec-Fetch-Site": "same-site"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Origin": "http://evil.example", "Host": "evil.example"},
        ):
            assert post(server, "/v1/chat/completions", b"{}", **headers)[0] == 403, headers


def test_a_failure_of_the_decoding_thread_is_reported(monkeypatch):
    from jaxtrain.generate import continuous_batching

    def broken(*_):
        raise RuntimeError("the device is gone")

    with running(make_server(None)) as server, server.client() as client:
        assert chat(client).choices
        failures = []
        server.state.scheduler.on_failure = lambda: failures.append(True)
        monkeypatch.setattr(continuous_batching, "_part", broken)
        with pytest.raises(openai.InternalServerError, match="decoding thread has failed"):
            chat(client)
        assert eventually(lambda: failures) and str(server.state.scheduler.failure) == "the device is gone"
        with pytest.raises(openai.InternalServerError, match="shutting down"):
            chat(client)


def test_a_completion_has_the_ids_of_its_tokens_where_they_are_requested(client):
    """As rollouts need them: what was sampled is never tokenised again."""
    ids = [int(i) for i in template().tokenizer.encode(["the sea"])[0]]
    options = {"model": NAME, "prompt": ids, "seed": 3, "max_tokens": 5, "logprobs": 1}
    plain = client.completions.create(**options).choices[0]
    found = client.completions.create(**options, extra_body={"return_token_ids": True}).choices[0]
    assert found.text == plain.text and not hasattr(plain, "token_ids")
    assert 0 < len(found.token_ids) <= 5 and len(found.token_ids) >= len(found.logprobs.token_logprobs)
    with pytest.raises(openai.BadRequestError, match="return_token_ids"):
        client.completions.create(**options, stream=True, extra_body={"return_token_ids": True})
