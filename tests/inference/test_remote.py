"""Endpoints: requests, responses, the request cache, and every way in which a server can fail."""

import contextlib
import socket
import time

import pytest

from jaxtrain.config import ConfigError, Failure
from jaxtrain.inference import remote as inference_remote
from jaxtrain.inference.config import EndpointFlags
from jaxtrain.inference.llm import REFUSED, Completion, Request, TokenLogprob, Usage, user_messages
from tests.remote import Remote, chat, fault

QUICK = {"retries": 2, "timeout": 5.0}
SOON = {"Retry-After": "0.01"}  # the server says how long to wait


@pytest.fixture
def remote():
    with Remote(lambda request: f"{request['messages'][-1]['content']} {request['seed']}") as result:
        yield result


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "deep" / "requests.sqlite"


@contextlib.contextmanager
def open_model(remote, cache, **settings):
    model = inference_remote.open_endpoint(
        f"{remote.url}?model=m", "generator", EndpointFlags(**{**QUICK, **settings}), cache
    )
    try:
        yield model
    finally:
        model.close()


def test_a_request_is_sent_as_the_api_has_it(remote, cache, monkeypatch):
    monkeypatch.setenv("OTHER_KEY", "secret")
    requests = [
        Request(user_messages("a", "be kind"), seed=3, temperature=0.5, max_new=7, stop=("\n",)),
        Request(user_messages("b"), samples=2, seed=4),
    ]
    with open_model(remote, cache, api_key_env="OTHER_KEY") as model:
        completions = model.generate(requests)
        assert model.name == f"{remote.url}?model=m" and model.remote and model.chat
    assert completions == [[Completion("a 3", "stop")], [Completion("b 4", "stop")] * 2]
    sent = {request["seed"]: (path, request, headers) for path, request, headers in remote.seen}
    path, request, headers = sent[3]
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer secret"
    assert request == {
        "model": "m", "seed": 3, "temperature": 0.5, "max_tokens": 7, "stop": ["\n"],
        "messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": "a"}],
    }  # fmt: skip
    assert sent[4][1]["n"] == 2
    assert model.usage.requests == 2 and (model.usage.tokens_in, model.usage.tokens_out) == (20, 10)
    assert b"secret" not in cache.read_bytes()


def test_a_text_is_continued_by_the_completions_of_the_api(cache):
    with Remote(lambda request: " wash it?") as remote, open_model(remote, cache) as model:
        completions = model.generate([Request(user_messages("Human: How do I"), samples=2, raw=True)])
    assert completions == [[Completion(" wash it?", "stop")] * 2]
    assert remote.seen[0][0] == "/v1/completions" and remote.seen[0][1]["prompt"] == "Human: How do I"
    assert model.usage.uncounted == 1, "this server does not count tokens"


def test_answers_are_paid_for_once(remote, cache):
    requests = [
        Request(user_messages("a"), seed=1),
        Request(user_messages("a"), seed=2),
        Request(user_messages("b"), seed=1),
    ]
    with open_model(remote, cache) as model:
        first = model.generate(requests)
    with open_model(remote, cache) as model:
        assert model.generate(requests) == first and model.usage == Usage(cached=3, lock=model.usage.lock)
        model.generate([requests[0]._replace(temperature=0.1)])
    assert len(remote.seen) == 4
    with open_model(remote, cache, use_cache=False) as model:
        assert model.generate(requests) == first
    assert len(remote.seen) == 7


def test_a_party_that_gives_one_answer_at_a_time_is_asked_for_the_others(cache):
    with Remote(lambda request: chat([str(request["seed"])])) as remote, open_model(remote, cache) as model:
        ((*replies,),) = model.generate([Request(user_messages("a"), samples=3, seed=5)])
        again = model.generate([Request(user_messages("a"), samples=3, seed=5)])[0]
    assert len({reply.text for reply in replies}) == 3 and again == replies
    assert [request.get("n", 1) for _, request, _ in remote.seen] == [3, 2, 1]


def test_no_more_requests_are_under_way_than_allowed(remote, cache):
    remote.slow = 0.05
    with open_model(remote, cache, concurrency=3) as model:
        completions = model.generate([Request(user_messages(str(i)), seed=i) for i in range(9)])
    assert remote.most == 3 and [one.text for (one,) in completions] == [f"{i} {i}" for i in range(9)]


def test_what_passes_by_is_tried_again(remote, cache):
    busy = (429, fault("slow down"), SOON)
    remote.next = [busy, (503, fault("overloaded"), SOON), busy, "drop", (500, b"<html>", SOON)]
    with open_model(remote, cache, retries=5) as model:
        assert model.generate([Request(user_messages("a"), seed=1)]) == [[Completion("a 1", "stop")]]
    assert len(remote.seen) == 6


@pytest.mark.parametrize(
    "body",
    [b"<html>nothing here</html>", b"[1]", {"choices": []}, {"choices": [{"message": None}]}, {"other": 1},
     {"choices": ["text"]}, b'{"choices": [{"message": {"content": "half'],
)  # fmt: skip
def test_malformed_responses_are_requested_again_and_never_cached(remote, cache, body):
    remote.next = [(200, body)]
    with open_model(remote, cache) as model:
        assert model.generate([Request(user_messages("a"), seed=1)]) == [[Completion("a 1", "stop")]]
        assert model.usage.repeated == 1
        remote.next = [(200, body)] * 4
        with pytest.raises(
            Failure, match=r"--generator=.*answered.* 4 times; is it an OpenAI-compatible endpoint"
        ):
            model.generate([Request(user_messages("b"), seed=1)])
        assert model.generate([Request(user_messages("b"), seed=1)]) == [[Completion("b 1", "stop")]]


FAILS = {
    "key": ((401, fault("Incorrect API key provided")), ConfigError, r"refused the key \(401\).*Incorrect.*is not set"),
    "forbidden": ((403, fault("no")), ConfigError, r"refused the key \(403\)"),
    "model": ((404, fault("The model m does not exist")), ConfigError, r"refused the request \(404\).*does not exist"),
    "limit": ((429, fault("slow down"), SOON), Failure, r"too many requests \(429\), 3 times: .*slow down.*cache"),
    "broken": ((500, fault("oops"), SOON), Failure, r"failed \(500\), 3 times: .*oops"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FAILS)
def test_what_fails_is_explained_and_the_rest_is_cached(remote, cache, kind, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    answer, error, message = FAILS[kind]
    with open_model(remote, cache) as model:
        model.generate([Request(user_messages("a"), seed=1)])
        remote.next = [answer] * 3
        with pytest.raises(error, match=message):
            model.generate([Request(user_messages("b"), seed=1)])
        remote.next = []
        assert (
            model.generate([Request(user_messages("a"), seed=1), Request(user_messages("b"), seed=1)])[1][
                0
            ].text
            == "b 1"
        )
    assert model.usage.cached == 1


def test_a_slow_server_is_given_up(remote, cache):
    remote.next = ["hang"]
    message = r"no answer in --timeout=0\.2 s, 1 times; responses so far are in the request cache"
    with open_model(remote, cache, timeout=0.2, retries=0) as model, pytest.raises(Failure, match=message):
        model.generate([Request(user_messages("a"))])


def test_no_server(cache, capsys):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free_port = probe.getsockname()[1]
    url, message = f"http://127.0.0.1:{free_port}/v1", r"--expert=.*no connection .*is it running"
    with pytest.raises(Failure, match=message):
        inference_remote.open_endpoint(url, "expert", EndpointFlags(retries=0), cache)
    # A model that is named may have stored responses: the first request without one fails.
    model = inference_remote.open_endpoint(f"{url}?model=m", "expert", EndpointFlags(retries=0), cache)
    with contextlib.closing(model), pytest.raises(Failure, match=message):
        model.generate([Request(user_messages("a"))])
    assert "no connection" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "http://",
        "http://[h/v1",
        "http://h:99999/v1",
        "http://h/v1?key=x",
        "http://me:word@h/v1",
        "http://h/v1#m",
    ],
)
def test_urls_that_cannot_be_are_refused_without_being_shown(cache, text):
    with pytest.raises(ConfigError, match="--expert: write http://HOST:PORT") as refused:
        inference_remote.open_endpoint(text, "expert", EndpointFlags(), cache)
    assert "word" not in str(refused.value)


def test_the_only_model_needs_no_name(cache):
    with Remote() as remote:
        model = inference_remote.open_endpoint(remote.url, "judge", EndpointFlags(**QUICK), cache)
        model.close()
        assert model.name.endswith("/v1?model=m")
        remote.models = ("a", "b")
        with pytest.raises(ConfigError, match=r"name a model with \?model=NAME; it has a, b"):
            inference_remote.open_endpoint(remote.url, "judge", EndpointFlags(**QUICK), cache)


def test_log_probabilities_are_read_or_missed(cache):
    content = [
        {"token": "A", "logprob": -0.1, "bytes": None, "top_logprobs": [{"token": "A", "logprob": -0.1}]}
    ]
    answers = iter(
        [chat(["A"], logprobs=content), chat(["A"]), *[chat(["A"], logprobs=[{"token": "A"}])] * 4]
    )
    with Remote(lambda request: next(answers)) as remote, open_model(remote, cache) as model:
        ((reply,),) = model.generate([Request(user_messages("a"), top_logprobs=5)])
        assert reply.logprobs == (TokenLogprob("A", -0.1, (("A", -0.1),)),)
        assert remote.seen[0][1]["top_logprobs"] == 5 and remote.seen[0][1]["logprobs"] is True
        with pytest.raises(ConfigError, match="returned no log-probabilities though they were requested"):
            model.generate([Request(user_messages("b"), top_logprobs=5)])
        with pytest.raises(Failure, match="malformed log-probabilities"):
            model.generate([Request(user_messages("c"), top_logprobs=5)])
        with pytest.raises(ConfigError, match="at most 20"):
            model.generate([Request(user_messages("c"), top_logprobs=21)])


def test_prices_are_of_a_million_tokens():
    assert EndpointFlags(price_in=2.0, price_out=8.0).cost(500_000, 250_000) == 3.0


def test_an_error_keeps_what_others_bring(remote, cache):
    """Of three requests at once the first is refused at once; the others' responses are paid for, and cached."""
    text = remote.reply

    def reply(request):
        time.sleep(0.2)
        return text(request)

    remote.reply, remote.next = reply, [(401, fault("no"))]
    with open_model(remote, cache, concurrency=3) as model:
        with pytest.raises(ConfigError, match="401"):
            model.generate([Request(user_messages(one), seed=1) for one in "abcdef"])
        sent = len(remote.seen)
        remote.next = []
        model.generate([Request(user_messages(one), seed=1) for one in "abcdef"])
    assert sent <= 4 and model.usage.cached == sent - 1 and len(remote.seen) == 7


def unsupported(name, message="is not supported with this model"):
    return 400, {"error": {"message": f"'{name}' {message}", "param": name, "code": "unsupported_parameter"}}


def test_what_an_endpoint_does_not_take_is_learnt_once_and_recorded(cache, capsys):
    """Eight threads at once; every parameter is refused for as long as it is sent."""
    refused = ("max_tokens", "seed", "temperature", "stop", "n")

    def reply(request):
        wrong = [name for name in refused if name in request]
        return unsupported(wrong[0]) if wrong else chat(["One. Two."], finish="length")

    requests = [
        Request(user_messages(str(i)), samples=2, seed=i, temperature=0.5, stop=(" Two",)) for i in range(24)
    ]
    with Remote(reply) as remote, open_model(remote, cache) as model:
        completions = model.generate(requests)
        last = len(remote.seen)
        model.generate([Request(user_messages("more"), seed=1, temperature=0.5)])
    assert completions == [[Completion("One.", "stop")] * 2] * 24
    assert len(remote.seen) == last + 1 and "max_completion_tokens" in remote.seen[-1][1]
    lines = capsys.readouterr().err.splitlines()
    assert set(model.usage.changes) == set(refused) and len(lines) == 5
    assert all("?model=m: it does not take" in line for line in lines)
    assert "'temperature' is not supported" in model.usage.changes["temperature"]


def test_responses_from_the_cache_still_say_how_they_were_requested(cache, capsys):
    with Remote(lambda r: unsupported("temperature") if "temperature" in r else "fine") as remote:
        with open_model(remote, cache) as model:
            model.generate([Request(user_messages("a"), temperature=0.0)])
        capsys.readouterr()
        with open_model(remote, cache) as model:
            model.generate([Request(user_messages("a"), temperature=0.0)])
    assert model.usage.cached == 1 and list(model.usage.changes) == ["temperature"]
    assert "sampled at the endpoint's own temperature" in capsys.readouterr().err


def test_log_probabilities_that_an_endpoint_does_not_take_are_an_error(cache):
    message = r"gives no log-probabilities .*'logprobs' is not supported.*--soft"
    with (
        Remote(lambda r: unsupported("logprobs")) as remote,
        open_model(remote, cache) as model,
        pytest.raises(ConfigError, match=message),
    ):
        model.generate([Request(user_messages("a"), top_logprobs=5)])
    assert not model.usage.changes


def test_a_request_of_a_kind_that_is_never_taken_is_an_error_though_others_were(cache):
    """A judge's requests are refused, those of the generator at the same endpoint were not."""

    def reply(request):
        return (400, fault("Your plan has no such use")) if request["temperature"] == 0 else "fine"

    with Remote(reply) as remote, open_model(remote, cache) as model:
        model.generate([Request(user_messages("a"))])
        remote.slow = 0.02
        with pytest.raises(ConfigError, match=r"refused the request \(400\): Your plan has no such use"):
            model.generate([Request(user_messages(str(i)), temperature=0.0) for i in range(50)])
    assert len(remote.seen) < 40, "not all fifty are sent"


def test_prompts_that_are_refused_first_do_not_stop_the_others(cache):
    def reply(request):
        return (400, fault("too long")) if len(request["messages"][-1]["content"]) > 9 else "fine"

    with Remote(reply) as remote, open_model(remote, cache, concurrency=2) as model:
        completions = model.generate([Request(user_messages(text)) for text in ("much too long", "a", "b")])
    assert [one.finish_reason for (one,) in completions] == [REFUSED, "stop", "stop"]
    assert completions[0][0].detail == "the endpoint refused the request (400): too long"


def listing(status, body):
    remote = Remote()
    handler = remote.server.RequestHandlerClass
    handler.do_GET = lambda self: self.send(status, body)
    return remote


def test_a_list_of_models_that_is_not_there_is_needed_only_without_a_name(cache):
    for status, body in (
        (404, fault("no such path")),
        (200, b"<html>hello</html>"),
        (403, fault("no scope")),
    ):
        with listing(status, body) as remote:
            with open_model(remote, cache) as model:
                assert model.generate([Request(user_messages("a"))])[0][0].text == "fine"
            with pytest.raises(ConfigError, match=r"name a model with \?model=NAME; "):
                inference_remote.open_endpoint(remote.url, "judge", EndpointFlags(**QUICK), cache)
    with (
        listing(401, fault("no key")) as remote,
        pytest.raises(ConfigError, match=r"\(401\): no key.*export OTHER=KEY"),
        open_model(remote, cache, api_key_env="OTHER"),
    ):
        pass


def test_a_model_that_is_not_there_brings_the_names_of_those_near(cache):
    missing = (404, fault("The model `small-chat` does not exist"))
    with Remote(lambda r: missing, models=("small-chat-1", "other")) as remote:
        model = inference_remote.open_endpoint(
            f"{remote.url}?model=small-chat", "judge", EndpointFlags(**QUICK), cache
        )
        with pytest.raises(
            ConfigError, match=r"does not exist; its list of models has no small-chat, but small-chat-1$"
        ):
            model.generate([Request(user_messages("a"))])
        model.close()


@pytest.mark.parametrize("path", ["/chat/completions", "/completions", "/models"])
def test_the_address_of_one_call_is_refused(cache, path):
    with pytest.raises(ConfigError, match=f"leave {path} out"):
        inference_remote.open_endpoint(f"http://h/v1{path}?model=m", "judge", EndpointFlags(), cache)


def test_a_redirect_that_loses_the_request_is_named(cache):
    with Remote() as remote:
        handler = remote.server.RequestHandlerClass
        send, get = handler.do_POST, handler.do_GET

        def moved(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send(301, b"", {"Location": "/elsewhere"})

        handler.do_POST = moved
        handler.do_GET = lambda self: (
            get(self) if "models" in self.path else self.send(405, fault("POST only"))
        )
        with (
            open_model(remote, cache) as model,
            pytest.raises(ConfigError, match=r"redirects from .* to .*/elsewhere"),
        ):
            model.generate([Request(user_messages("a"))])
        handler.do_POST, handler.do_GET = send, get


def test_how_long_an_endpoint_wants_to_be_left_alone_is_shown(remote, cache):
    remote.next = [(429, fault("quota is used up"), {"Retry-After": "3600"})] * 2
    with (
        open_model(remote, cache, retries=0) as model,
        pytest.raises(Failure, match=r"used up \(Retry-After: 3600\)"),
    ):
        model.generate([Request(user_messages("a"))])


def test_a_prompt_that_is_not_taken_does_not_stop_the_others(cache):
    """The first request of all is refused: a mistake of the command. A later one: of its prompt, which is counted."""

    def reply(request):
        long = len(request["messages"][-1]["content"]) > 9
        return (400, fault("context length exceeded")) if long else "fine"

    with Remote(reply) as remote, open_model(remote, cache) as model:
        with pytest.raises(ConfigError, match=r"refused the request \(400\).*context length"):
            model.generate([Request(user_messages("much too long"))])
        model.generate([Request(user_messages("a"))])
        completions = model.generate(
            [
                Request(user_messages("b")),
                Request(user_messages("much too long"), samples=2),
                Request(user_messages("c")),
            ]
        )
    assert completions == [
        [Completion("fine", "stop")],
        [Completion("", REFUSED, detail="the endpoint refused the request (400): context length exceeded")]
        * 2,
        [Completion("fine", "stop")],
    ]
    assert model.usage.refused == 1
