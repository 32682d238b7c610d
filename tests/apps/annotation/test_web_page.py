"""The page for annotators in a browser: clicks, keys, reloads, and a server that goes away."""

import pytest

from tests import browser
from tests.apps.annotation.web_app import HOSTILE, filled, rows, served

pytestmark = browser.needed
THERE = "document.readyState == 'complete' && !!document.getElementById('ballot')"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser.opened(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def page(chromium):
    chromium.events.clear()
    made = chromium.page()
    made.look()
    yield made
    assert chromium.complaints() == []


def begin(page, port, name="ann"):
    page.go(f"http://127.0.0.1:{port}/")
    page.click("#name")
    page.type(name)
    page.key("Enter")
    page.until(THERE)


def answers(page, act, item):
    """Does `act`, and waits for another question than `item`."""
    act()
    page.until(
        f"document.readyState == 'complete' && document.getElementById('ballot')?.dataset.item != '{item}'"
    )


def test_keys(tmp_path, page):
    ballots = filled(tmp_path / "b", count=6)
    with served(ballots) as port:
        begin(page, port)
        shown = [ballots.item(n, "ann") for n in range(6)]
        texts = "document.querySelectorAll('.response .text')"
        assert [page.js(f"{texts}[{i}].innerText") for i in (0, 1)] == shown[0].responses
        for item, key in enumerate("1234s"):
            answers(page, lambda key=key: page.key(key), item)
        assert "4 of 6" in page.text() and "1 skipped" in page.text()
        page.key("u")
        page.until(
            "document.readyState == 'complete' && document.getElementById('ballot')?.dataset.item == '4'"
        )
        answers(page, lambda: page.key("2"), 4)
        page.key("x")
        answers(page, lambda: page.key("1"), 5)
        assert "All done" in page.text()
    assert [row["preferred"] for row in rows(ballots)] == ["a", "b", "tie", "tie", "b", "a"]
    assert [row["response_a"] for row in rows(ballots)] == [item.responses[0] for item in shown]


def test_clicks_on_a_phone_and_a_reload_in_the_middle(tmp_path, page):
    ballots = filled(tmp_path / "b", count=2)
    page.look(390, 780, dark=True)
    with served(ballots) as port:
        begin(page, port)
        assert page.js("document.documentElement.scrollWidth <= innerWidth"), "nothing is cut off at the side"
        before = page.js("document.querySelector('.responses').innerText")
        page.click("#reason")
        page.type("half a reason")
        page.reload()
        assert page.js("document.getElementById('reason').value") == "half a reason"
        assert page.js("document.querySelector('.responses').innerText") == before, (
            "the same question, in the same order"
        )
        answers(page, lambda: page.click("[value=second]"), 0)
        assert page.js("document.getElementById('reason').value") == ""
        answers(page, lambda: page.click("[value=both_bad]"), 1)
    assert [(row["preferred"], row["reason"]) for row in rows(ballots)] == [
        ("b", "half a reason"),
        ("tie", ""),
    ]


def test_a_reason_by_keys_and_required(tmp_path, page):
    ballots = filled(tmp_path / "b", count=3)
    with served(ballots, reasoned=True) as port:
        begin(page, port)
        page.key("r")
        page.type("1 2 s u")  # in the field keys are letters
        page.key("Enter")
        answers(page, lambda: page.key("1"), 0)
        page.key("2")
        page.until("document.activeElement.id == 'reason'")
        assert "Say why" in page.text()
        page.type("so")
        answers(page, lambda: page.key("Enter"), 1)
        answers(page, lambda: page.key("s"), 2)
    assert [(row["preferred"], row["reason"]) for row in rows(ballots)] == [("a", "1 2 s u"), ("b", "so")]


def test_a_ranking_by_keys_and_by_its_fields(tmp_path, page):
    ballots = filled(tmp_path / "b", count=2, responses=4)
    with served(ballots) as port:
        begin(page, port)
        page.type("43")
        page.key("Backspace")
        page.type("3142")
        answers(page, lambda: page.key("Enter"), 0)
        page.type("21")
        for i, rank in ((2, 1), (3, 3)):
            page.js(f"document.querySelector('[data-rank=\"{i}\"]').value = '{rank}'")
        answers(page, lambda: page.click("[value=rank]"), 1)
    assert [row["ranking"] for row in rows(ballots)] == [[2, 4, 1, 3], [2, 1, 1, 3]]


def test_an_answer_outlives_a_server_that_dies(tmp_path, page, chromium):
    ballots = filled(tmp_path / "b", count=3)
    with served(ballots) as port:
        begin(page, port)
        answers(page, lambda: page.key("1"), 0)
    page.key("2")
    page.until("!document.getElementById('said').hidden")
    assert "No word from the server" in page.text()
    with served(ballots, port=port):
        answers(page, lambda: None, 1)
        assert "2 of 3" in page.text()
    assert [row["preferred"] for row in rows(ballots)] == ["a", "b"]
    chromium.events.clear()  # of a connection refused


def test_without_a_script_the_forms_do(tmp_path, page):
    ballots = filled(tmp_path / "b", count=2)
    with served(ballots) as port:
        begin(page, port)
        page.call("Emulation.setScriptExecutionDisabled", value=True)
        page.go(f"http://127.0.0.1:{port}/")
        page.click("#reason")
        page.type("no script")
        page.key("Enter")  # sends nothing: which button would it be?
        answers(page, lambda: page.click("[value=tie]"), 0)
        answers(page, lambda: page.click("[value=first]"), 1)
        page.call("Emulation.setScriptExecutionDisabled", value=False)
    assert [(row["preferred"], row["reason"]) for row in rows(ballots)] == [("tie", "no script"), ("a", "")]


def test_a_model_s_text_does_nothing(tmp_path, page):
    with served(filled(tmp_path / "b")) as port:
        begin(page, port)
        assert HOSTILE in page.text() and page.js("document.title") == "Question 1"
        assert page.js("document.querySelectorAll('main img, main script').length") == 0
