"""The chat page in a browser: keys, two models side by side, colours of tokens, the store, and a phone's width."""

import http.client
import json

from jaxtrain.apps.serve.http import PAGE_HEADERS
from jaxtrain.apps.serve.metrics import Metrics
from tests import browser
from tests.apps.serve.conftest import KEY, running
from tests.apps.serve.scripted import FULL, scripted_server, write

ANSWERS = "document.querySelectorAll('.answer .text:not(.thought)')"
HOSTILE = "<img src=x onerror=\"document.title='taken'\"> & “é”"


def scripted(path=None, key="", names=("a", "b")):
    """The state of a server of models of these names, which write what `write` sets for each."""
    one, *others = (
        state._replace(
            model=state.model._replace(name=name), limits=state.limits._replace(api_key=key), store=None
        )
        for name in names
        for state in [scripted_server(FULL)]
    )
    store = scripted_server(FULL, path).store if path else None
    metrics = Metrics([one.scheduler], store)
    others = tuple(other._replace(store=store, metrics=metrics) for other in others)
    return one._replace(store=store, metrics=metrics, others=others)


def says(state, *texts):
    """Sets what each model writes."""
    for one, text in zip(state.by_model.values(), texts, strict=True):
        write(type("Running", (), {"state": one}), text)


def opened(page, server):
    page.go(server.url)
    page.until("document.title.startsWith('Chat: ')")


def ask(page, text):
    """Types a message, sends it with Enter, and waits for the answers."""
    before = page.js("document.querySelectorAll('.turn').length")
    page.click("#message")
    page.type(text)
    page.key("Enter")
    page.until(
        f"document.querySelectorAll('.turn').length > {before} && !document.getElementById('send').hidden"
    )


def texts(page):
    return page.js(f"[...{ANSWERS}].map((one) => one.innerText)")


def requests(state, name):
    """The ids of the prompt that the model of this name got last, as text."""
    server = state.by_model[name]
    return server.model.template.tokenizer.decode(list(server.scheduler.requests[-1].ids))


@browser.needed
def test_two_models_side_by_side_by_keys(page):
    state = scripted()
    says(state, "I am a.", f"I am b. {HOSTILE}")
    with running(state) as server:
        opened(page, server)
        ask(page, "Hi?")
        assert texts(page) == ["I am a.", f"I am b. {HOSTILE}"]
        assert page.js("document.title") == "Chat: a, b"
        ask(page, "And?")
        assert len(texts(page)) == 4
        assert "I am a." in requests(state, "a") and "I am b." not in requests(state, "a"), "own histories"
        assert "I am b." in requests(state, "b")
        page.key("ArrowUp")
        assert page.js("document.getElementById('message').value") == "And?"
        page.js("document.getElementById('message').value = ''")
        page.click("#models label:nth-of-type(2)")  # b is left out
        page.click("#again")
        page.until(f"{ANSWERS}.length == 3 && !document.getElementById('send').hidden")
        assert requests(state, "a").count("And?") == 1, "the turn was taken back"
        page.click("#reset")
        assert texts(page) == []
        ask(page, "Hi?")
        assert "And?" not in requests(state, "a") and len(texts(page)) == 1


@browser.needed
def test_a_model_of_single_turns_gets_each_message_alone(page):
    state = scripted()
    state = state._replace(model=state.model._replace(single_turn=True))
    says(state, "I am a.", "I am b.")
    with running(state) as server:
        opened(page, server)
        said = page.js("document.getElementById('single').innerText")
        assert said.startswith("a was trained on single questions: it gets each message alone")
        page.js("document.getElementById('sampling').system.value = 'Be short.'")
        ask(page, "Hi?")
        ask(page, "And?")
        own, other = requests(state, "a"), requests(state, "b")
        assert "And?" in own and "Be short." in own and "Hi?" not in own and "I am a." not in own
        assert "And?" in other and "Be short." in other and "Hi?" in other and "I am b." in other
        page.click("#again")
        page.until(f"{ANSWERS}.length == 4 && !document.getElementById('send').hidden")
        assert requests(state, "a") == own and requests(state, "b") == other
        page.js("localStorage.clear()")


@browser.needed
def test_colours_of_tokens_and_sampling_controls(page):
    state = scripted(names=("a",))
    says(state, "Yés. Nö")
    with running(state) as server:
        opened(page, server)
        assert page.js("document.getElementById('models').hidden"), "one model is no choice"
        assert page.js("document.getElementById('single').hidden")
        page.click("#settings summary")
        for field, value in {"temperature": "0.5", "max_tokens": "7", "top_k": "3", "seed": "4"}.items():
            page.js(
                f"f = document.getElementById('sampling')['{field}']; f.value = '{value}'; "
                "f.dispatchEvent(new Event('change', {bubbles: true}))"
            )
        page.click("[name=logprobs]")
        ask(page, "Hi?")
        spans = "[...document.querySelectorAll('.tokens span')]"
        assert page.js(f"{spans}.map((one) => one.textContent)") == [*"Yés. N"], (
            "a character of two bytes once"
        )
        assert set(page.js(f"{spans}.map((one) => one.className)")) == {"p1"}, "exp(-0.5) is 61 %"
        assert "cut off at the most tokens" in page.text()
        page.js("document.querySelector('.tokens').focus()")
        page.key("ArrowRight")
        assert "Y 61 % (log-probability -0.50)" in page.js("document.querySelector('.token-info').innerText")
        request = state.scheduler.requests[0]
        assert (request.limit, request.sampling_params["temperature"], request.sampling_params["top_k"]) == (
            7,
            0.5,
            3,
        )
        page.reload()
        assert page.js("document.getElementById('sampling').top_k.value") == "3", "settings stay"
        page.js("localStorage.clear()")


@browser.needed
def test_a_thought_an_error_and_nothing_typed_is_lost(page, chromium):
    state = scripted(names=("a",))
    says(state, "[T]Hm.[/T]So.")
    with running(state) as server:
        opened(page, server)
        ask(page, "Why?")
        assert page.js("document.querySelector('.thought').innerText") == "Hm." and texts(page) == ["So."]
        page.js("f = document.getElementById('sampling'); f.max_tokens.value = '100000'")
        ask(page, "Why not?")
        assert "maximum context length" in page.js("document.querySelectorAll('.meta.bad')[0].innerText")
        assert page.js("document.getElementById('message').value") == "Why not?"
        page.js("localStorage.clear()")
    page.key("Enter")
    page.until("document.body.innerText.includes('The server cannot be reached')")
    chromium.events.clear()  # of the refused request and the connection


@browser.needed
def test_the_store_is_browsed_filtered_and_emptied_on_a_phone_with_a_key(page, chromium, tmp_path):
    state = scripted(tmp_path / "store.sqlite", key=KEY)
    says(state, "From a.", f"From b. {HOSTILE}")
    page.emulate(390, 780, dark=True)
    with running(state) as server:
        page.go(server.url)
        page.until("!document.getElementById('key-form').hidden")
        page.type("wrong")
        page.key("Enter")
        page.until("document.getElementById('notice').innerText == 'The server refuses this key.'")
        page.js("document.getElementById('key').value = ''")
        page.click("#key")
        page.type(KEY)
        page.key("Enter")
        page.until("document.title.startsWith('Chat: ')")
        assert page.js("document.getElementById('key-form').hidden")
        page.js("document.getElementById('sampling').store.checked = true")
        ask(page, "Hi?")
        assert page.js("document.documentElement.scrollWidth <= innerWidth"), "nothing is cut off at the side"
        page.click("#show-store")
        page.until("document.querySelectorAll('.row').length == 2")
        page.js("document.getElementById('filter').model.value = 'b'")
        page.click("#filter button")
        page.until("document.querySelectorAll('.row').length == 1")
        page.click(".row summary")
        page.until("document.querySelector('.row').childElementCount > 1")
        assert HOSTILE in page.js("document.querySelector('.row').innerText")
        assert page.js("document.documentElement.scrollWidth <= innerWidth")
        page.click(".row .delete")
        assert page.js("document.activeElement.innerText") == "Keep it", "one more key press deletes nothing"
        page.click(".row .sure")
        page.until("!document.querySelector('.row')")
        page.js("f = document.getElementById('filter'); f.model.value = ''; f.metadata.value = 'source=chat'")
        page.click("#filter button")
        page.until(
            "document.querySelectorAll('.row').length == 1 && document.body.innerText.includes('1 completion')"
        )
        assert page.js("document.title") == "Chat: a, b"
    chromium.events.clear()  # of status 401


def test_what_each_file_is_served_with():
    state = scripted(names=("a",))
    with running(state) as server:
        link = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=10)
        for path, kind in {
            "/": "text/html",
            "/pages/chat.css": "text/css",
            "/pages/api.js": "text/javascript",
        }.items():
            link.request("GET", path)
            response = link.getresponse()
            assert response.status == 200 and response.read()
            assert response.headers["content-type"].startswith(kind)
            assert {name: response.headers[name] for name in PAGE_HEADERS} == PAGE_HEADERS
        assert "script-src 'self'" in PAGE_HEADERS["Content-Security-Policy"]
        link.request("GET", "/v1/models")
        assert json.loads(link.getresponse().read())["data"][0]["id"] == "a"
        link.close()
