"""The annotation page in a browser: clicks, keys, reloads, and an outage of the server."""

from tests import browser
from tests.apps.annotation.web_app import HOSTILE, exported_rows, filled_db, running_page

pytestmark = browser.needed
VOTE_FORM = "document.readyState == 'complete' && !!document.getElementById('vote-form')"


def sign_in(page, port, name="ann"):
    page.go(f"http://127.0.0.1:{port}/")
    page.click("#name")
    page.type(name)
    page.key("Enter")
    page.until(VOTE_FORM)


def vote(page, act, item):
    """Does `act`, and waits for another item than `item`."""
    act()
    page.until(
        f"document.readyState == 'complete' && document.getElementById('vote-form')?.dataset.item != '{item}'"
    )


def test_keys(tmp_path, page):
    db = filled_db(tmp_path / "b", count=6)
    with running_page(db) as port:
        sign_in(page, port)
        shown = [db.item(n, "ann") for n in range(6)]
        texts = "document.querySelectorAll('.response .text')"
        assert [page.js(f"{texts}[{i}].innerText") for i in (0, 1)] == shown[0].responses
        for item, key in enumerate("1234s"):
            vote(page, lambda key=key: page.key(key), item)
        assert "4 of 6" in page.text() and "1 skipped" in page.text()
        page.key("u")
        page.until(
            "document.readyState == 'complete' && document.getElementById('vote-form')?.dataset.item == '4'"
        )
        vote(page, lambda: page.key("2"), 4)
        page.key("x")
        vote(page, lambda: page.key("1"), 5)
        assert "All done" in page.text()
    assert [row["preferred"] for row in exported_rows(db)] == ["a", "b", "tie", "tie", "b", "a"]
    assert [row["response_a"] for row in exported_rows(db)] == [item.responses[0] for item in shown]


def test_clicks_on_a_phone_and_a_reload_in_the_middle(tmp_path, page):
    db = filled_db(tmp_path / "b", count=2)
    page.emulate(390, 780, dark=True)
    with running_page(db) as port:
        sign_in(page, port)
        assert page.js("document.documentElement.scrollWidth <= innerWidth"), "nothing is cut off at the side"
        before = page.js("document.querySelector('.responses').innerText")
        page.click("#reason")
        page.type("half a reason")
        page.reload()
        assert page.js("document.getElementById('reason').value") == "half a reason"
        assert page.js("document.querySelector('.responses').innerText") == before, (
            "the same question, in the same order"
        )
        vote(page, lambda: page.click("[value=second]"), 0)
        assert page.js("document.getElementById('reason').value") == ""
        vote(page, lambda: page.click("[value=both_bad]"), 1)
    assert [(row["preferred"], row["reason"]) for row in exported_rows(db)] == [
        ("b", "half a reason"),
        ("tie", ""),
    ]


def test_a_reason_by_keys_and_required(tmp_path, page):
    db = filled_db(tmp_path / "b", count=3)
    with running_page(db, reason_required=True) as port:
        sign_in(page, port)
        page.key("r")
        page.type("1 2 s u")  # in the field keys are letters
        page.key("Enter")
        vote(page, lambda: page.key("1"), 0)
        page.key("2")
        page.until("document.activeElement.id == 'reason'")
        assert "Give a reason" in page.text()
        page.type("so")
        vote(page, lambda: page.key("Enter"), 1)
        vote(page, lambda: page.key("s"), 2)
    assert [(row["preferred"], row["reason"]) for row in exported_rows(db)] == [("a", "1 2 s u"), ("b", "so")]


def test_a_ranking_by_keys_and_by_its_fields(tmp_path, page):
    db = filled_db(tmp_path / "b", count=2, responses=4)
    with running_page(db) as port:
        sign_in(page, port)
        page.type("43")
        page.key("Backspace")
        page.type("3142")
        vote(page, lambda: page.key("Enter"), 0)
        page.type("21")
        for i, rank in ((2, 1), (3, 3)):
            page.js(f"document.querySelector('[data-rank=\"{i}\"]').value = '{rank}'")
        vote(page, lambda: page.click("[value=rank]"), 1)
    assert [row["ranking"] for row in exported_rows(db)] == [[2, 4, 1, 3], [2, 1, 1, 3]]


def test_a_vote_survives_an_outage_of_the_server(tmp_path, page, chromium):
    db = filled_db(tmp_path / "b", count=3)
    with running_page(db) as port:
        sign_in(page, port)
        vote(page, lambda: page.key("1"), 0)
    page.key("2")
    page.until("!document.getElementById('notice').hidden")
    assert "The server cannot be reached" in page.text()
    with running_page(db, port=port):
        vote(page, lambda: None, 1)
        assert "2 of 3" in page.text()
    assert [row["preferred"] for row in exported_rows(db)] == ["a", "b"]
    chromium.events.clear()  # of a connection refused


def test_the_forms_work_without_the_script(tmp_path, page):
    db = filled_db(tmp_path / "b", count=2)
    with running_page(db) as port:
        sign_in(page, port)
        page.call("Emulation.setScriptExecutionDisabled", value=True)
        page.go(f"http://127.0.0.1:{port}/")
        page.click("#reason")
        page.type("no script")
        page.key("Enter")  # sends nothing: which button would it be?
        vote(page, lambda: page.click("[value=tie]"), 0)
        vote(page, lambda: page.click("[value=first]"), 1)
        page.call("Emulation.setScriptExecutionDisabled", value=False)
    assert [(row["preferred"], row["reason"]) for row in exported_rows(db)] == [
        ("tie", "no script"),
        ("a", ""),
    ]


def test_a_response_cannot_run_a_script(tmp_path, page):
    with running_page(filled_db(tmp_path / "b")) as port:
        sign_in(page, port)
        assert HOSTILE in page.text() and page.js("document.title") == "Question 1"
        assert page.js("document.querySelectorAll('main img, main script').length") == 0
