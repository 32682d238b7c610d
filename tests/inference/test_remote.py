"""Endpoints: what is sent, what is read, what is kept, and every way in which a remote party can fail."""

import contextlib
import socket
import sqlite3
import threading
import time

import pytest

from jaxtrain.config import ConfigError, Failure
from jaxtrain.inference import remote as inference_remote
from jaxtrain.inference.llm import REFUSED, Completion, Request, TokenLogprob, Usage, user
from jaxtrain.inference.remote import EndpointFlags
from jaxtrain.inference.request_cache import RequestCache, key_of
from tests.remote import Remote, chat, fault

QUICK = {"retries": 2, "timeout": 5.0}
SOON = {"Retry-After": "0.01"}  # the party says how long to wait


@pytest.fixture
def remote():
    with Remote(lambda request: f"{request['messages'][-1]['content']} {request['seed']}") as found:
        yield found


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "deep" / "requests.sqlite"


@contextlib.contextmanager
def opened(remote, cache, **settings):
    made = inference_remote.open_endpoint(
        f"{remote.url}?model=m", "generator", EndpointFlags(**{**QUICK, **settings}), cache
    )
    try:
        yield made
    finally:
        made.close()


def test_an_ask_is_the_request_that_the_api_knows(remote, cache, monkeypatch):
    monkeypatch.setenv("OTHER_KEY", "secret")
    asks = [
        Request(user("a", "be kind"), seed=3, temperature=0.5, max_new=7, stop=("\n",)),
        Request(user("b"), samples=2, seed=4),
    ]
    with opened(remote, cache, api_key_env="OTHER_KEY") as made:
        told = made.generate(asks)
        assert made.name == f"{remote.url}?model=m" and made.remote and made.chat
    assert told == [[Completion("a 3", "stop")], [Completion("b 4", "stop")] * 2]
    sent = {request["seed"]: (path, request, headers) for path, request, headers in remote.seen}
    path, request, headers = sent[3]
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer secret"
    assert request == {
        "model": "m", "seed": 3, "temperature": 0.5, "max_tokens": 7, "stop": ["\n"],
        "messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": "a"}],
    }  # fmt: skip
    assert sent[4][1]["n"] == 2
    assert made.spent.requests == 2 and (made.spent.tokens_in, made.spent.tokens_out) == (20, 10)
    assert b"secret" not in cache.read_bytes()


def test_a_text_is_continued_by_the_completions_of_the_api(cache):
    with Remote(lambda request: " wash it?") as remote, opened(remote, cache) as made:
        told = made.generate([Request(user("Human: How do I"), samples=2, raw=True)])
    assert told == [[Completion(" wash it?", "stop")] * 2]
    assert remote.seen[0][0] == "/v1/completions" and remote.seen[0][1]["prompt"] == "Human: How do I"
    assert made.spent.uncounted == 1, "this party does not say what it cost"


def test_answers_are_paid_for_once(remote, cache):
    asks = [Request(user("a"), seed=1), Request(user("a"), seed=2), Request(user("b"), seed=1)]
    with opened(remote, cache) as made:
        first = made.generate(asks)
    with opened(remote, cache) as made:
        assert made.generate(asks) == first and made.spent == Usage(cached=3, lock=made.spent.lock)
        made.generate([asks[0]._replace(temperature=0.1)])
    assert len(remote.seen) == 4
    with opened(remote, cache, use_cache=False) as made:
        assert made.generate(asks) == first
    assert len(remote.seen) == 7


def test_a_party_that_gives_one_answer_at_a_time_is_asked_for_the_others(cache):
    with Remote(lambda request: chat([str(request["seed"])])) as remote, opened(remote, cache) as made:
        ((*replies,),) = made.generate([Request(user("a"), samples=3, seed=5)])
        again = made.generate([Request(user("a"), samples=3, seed=5)])[0]
    assert len({reply.text for reply in replies}) == 3 and again == replies
    assert [request.get("n", 1) for _, request, _ in remote.seen] == [3, 2, 1]


def test_no_more_requests_are_under_way_than_allowed(remote, cache):
    remote.slow = 0.05
    with opened(remote, cache, concurrency=3) as made:
        told = made.generate([Request(user(str(i)), seed=i) for i in range(9)])
    assert remote.most == 3 and [one.text for (one,) in told] == [f"{i} {i}" for i in range(9)]


def test_what_passes_by_is_tried_again(remote, cache):
    busy = (429, fault("slow down"), SOON)
    remote.next = [busy, (503, fault("overloaded"), SOON), busy, "drop", (500, b"<html>", SOON)]
    with opened(remote, cache, retries=5) as made:
        assert made.generate([Request(user("a"), seed=1)]) == [[Completion("a 1", "stop")]]
    assert len(remote.seen) == 6


@pytest.mark.parametrize(
    "body",
    [b"<html>nothing here</html>", b"[1]", {"choices": []}, {"choices": [{"message": None}]}, {"other": 1},
     {"choices": ["text"]}, b'{"choices": [{"message": {"content": "half'],
)  # fmt: skip
def test_malformed_answers_are_asked_for_again_and_never_kept(remote, cache, body):
    remote.next = [(200, body)]
    with opened(remote, cache) as made:
        assert made.generate([Request(user("a"), seed=1)]) == [[Completion("a 1", "stop")]]
        assert made.spent.repeated == 1
        remote.next = [(200, body)] * 4
        with pytest.raises(
            Failure, match=r"--generator=.*answered.* 4 times; is it an OpenAI-compatible endpoint"
        ):
            made.generate([Request(user("b"), seed=1)])
        assert made.generate([Request(user("b"), seed=1)]) == [[Completion("b 1", "stop")]]


FAILS = {
    "key": ((401, fault("Incorrect API key provided")), ConfigError, r"refused the key \(401\).*Incorrect.*is not set"),
    "forbidden": ((403, fault("no")), ConfigError, r"refused the key \(403\)"),
    "model": ((404, fault("The model m does not exist")), ConfigError, r"refused the request \(404\).*does not exist"),
    "limit": ((429, fault("slow down"), SOON), Failure, r"too many requests \(429\), 3 times: .*slow down.*kept"),
    "broken": ((500, fault("oops"), SOON), Failure, r"failed \(500\), 3 times: .*oops"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FAILS)
def test_what_does_not_pass_is_explained_and_the_rest_is_kept(remote, cache, kind, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    answer, error, message = FAILS[kind]
    with opened(remote, cache) as made:
        made.generate([Request(user("a"), seed=1)])
        remote.next = [answer] * 3
        with pytest.raises(error, match=message):
            made.generate([Request(user("b"), seed=1)])
        remote.next = []
        assert made.generate([Request(user("a"), seed=1), Request(user("b"), seed=1)])[1][0].text == "b 1"
    assert made.spent.cached == 1


def test_a_slow_party_is_given_up(remote, cache):
    remote.next = ["hang"]
    message = r"no answer in --timeout=0\.2 s, 1 times; what was answered is kept"
    with opened(remote, cache, timeout=0.2, retries=0) as made, pytest.raises(Failure, match=message):
        made.generate([Request(user("a"))])


def test_nobody_there(cache):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free_port = probe.getsockname()[1]
    with pytest.raises(Failure, match=r"--expert=.*nobody answers .*is it up"):
        inference_remote.open_endpoint(
            f"http://127.0.0.1:{free_port}/v1", "expert", EndpointFlags(retries=0), cache
        )


@pytest.mark.parametrize("text", ["http://", "http://h/v1?key=x", "http://me:word@h/v1", "http://h/v1#m"])
def test_urls_that_cannot_be_are_refused_without_being_shown(cache, text):
    with pytest.raises(ConfigError, match="--expert: write http://HOST:PORT") as refused:
        inference_remote.open_endpoint(text, "expert", EndpointFlags(), cache)
    assert "word" not in str(refused.value)


def test_the_only_model_needs_no_name(cache):
    with Remote() as remote:
        made = inference_remote.open_endpoint(remote.url, "judge", EndpointFlags(**QUICK), cache)
        made.close()
        assert made.name.endswith("/v1?model=m")
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
    with Remote(lambda request: next(answers)) as remote, opened(remote, cache) as made:
        ((reply,),) = made.generate([Request(user("a"), top_logprobs=5)])
        assert reply.logprobs == (TokenLogprob("A", -0.1, (("A", -0.1),)),)
        assert remote.seen[0][1]["top_logprobs"] == 5 and remote.seen[0][1]["logprobs"] is True
        with pytest.raises(ConfigError, match="returned no log-probabilities though they were asked for"):
            made.generate([Request(user("b"), top_logprobs=5)])
        with pytest.raises(Failure, match="malformed log-probabilities"):
            made.generate([Request(user("c"), top_logprobs=5)])
        with pytest.raises(ConfigError, match="at most 20"):
            made.generate([Request(user("c"), top_logprobs=21)])


def test_the_cache_is_for_threads_and_survives_what_is_no_database(tmp_path):
    path = tmp_path / "c.sqlite"
    made = RequestCache(path)

    def fill(first):
        for i in range(first, first + 50):
            made.put(str(i), {"i": i, "half": "\ud800"})

    threads = [threading.Thread(target=fill, args=(50 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other = RequestCache(path)  # what another process sees
    assert [other.get(str(i))["i"] for i in range(200)] == list(range(200)) and other.get("200") is None
    made.close()
    other.close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM answers").fetchone() == (200,)
    (tmp_path / "bad.sqlite").write_text("no database " * 100)
    with pytest.raises(Failure, match=r"bad\.sqlite cannot be used .*move the file away"):
        RequestCache(tmp_path / "bad.sqlite")


def test_keys_differ_with_everything_that_is_asked():
    request = {"model": "m", "seed": 1, "messages": []}
    keys = {key_of("u", "/p", request), key_of("v", "/p", request), key_of("u", "/q", request)}
    keys |= {key_of("u", "/p", {**request, "seed": 2}), key_of("u", "/p", {**request, "model": "n"})}
    assert len(keys) == 5 and key_of("u", "/p", dict(reversed(request.items()))) in keys


def test_prices_are_of_a_million_tokens():
    assert EndpointFlags(price_in=2.0, price_out=8.0).cost(500_000, 250_000) == 3.0


def test_an_error_keeps_what_others_bring(remote, cache):
    """Of three requests at once the first is refused at once; the others' answers are paid for, and kept."""
    text = remote.reply

    def reply(request):
        time.sleep(0.2)
        return text(request)

    remote.reply, remote.next = reply, [(401, fault("no"))]
    with opened(remote, cache, concurrency=3) as made:
        with pytest.raises(ConfigError, match="401"):
            made.generate([Request(user(one), seed=1) for one in "abcdef"])
        asked = len(remote.seen)
        remote.next = []
        made.generate([Request(user(one), seed=1) for one in "abcdef"])
    assert asked <= 4 and made.spent.cached == asked - 1 and len(remote.seen) == 7


def test_a_prompt_that_is_not_taken_does_not_stop_the_others(cache):
    """The first request of all is refused: a mistake of the command. A later one: of its prompt, which is counted."""

    def reply(request):
        long = len(request["messages"][-1]["content"]) > 9
        return (400, fault("context length exceeded")) if long else "fine"

    with Remote(reply) as remote, opened(remote, cache) as made:
        with pytest.raises(ConfigError, match=r"refused the request \(400\).*context length"):
            made.generate([Request(user("much too long"))])
        made.generate([Request(user("a"))])
        told = made.generate(
            [Request(user("b")), Request(user("much too long"), samples=2), Request(user("c"))]
        )
    assert told == [[Completion("fine", "stop")], [Completion("", REFUSED)] * 2, [Completion("fine", "stop")]]
    assert made.spent.refused == 1
