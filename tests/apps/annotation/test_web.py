"""The annotation page over HTTP: what it stores, and which requests it refuses."""

import random

import pytest

from tests.apps.annotation.web_app import HOSTILE, Client, exported_rows, filled_db, running_page


@pytest.fixture
def db(tmp_path):
    return filled_db(tmp_path / "b")


def test_votes_are_stored_and_the_page_shows_the_next_item(db):
    with running_page(db) as port:
        ann = Client(port, "  Ann   of  X ")
        assert "1 of 4" not in ann.page() and "0 of 4" in ann.page()
        assert ann.vote("first", reason=" it\nis ")[0] == 303
        assert ann.vote("both_bad")[0] == 303 and ann.vote("skip")[0] == 303
        assert "2 of 4" in ann.page() and "1 skipped" in ann.page()
        status, text = ann.request("GET", "/votes.jsonl")
        assert status == 200 and text == db.export() and len(text.splitlines()) == 2
    assert [row["preferred"] for row in exported_rows(db)] == ["a", "tie"]
    assert exported_rows(db)[0]["annotator"] == "Ann of X" and exported_rows(db)[0]["reason"] == "it\nis"


def test_the_agreement_of_two_annotators_is_shown(tmp_path):
    db = filled_db(tmp_path / "b", count=4, wanted=2)
    with running_page(db) as port:
        ann, bob = Client(port, "ann"), Client(port, "bob")
        for annotator in (ann, bob):
            for n in range(4):  # alike in all but one; the responses stand in another order for each
                item = db.next_item("ann" if annotator is ann else "bob")
                first = item.shown[0] == (n % 2 if annotator is ann or n else 1)
                assert annotator.vote("first" if first else "second")[0] == 303
        (agreement,) = ann.status()["agreement"]
        assert (agreement["who"], agreement["count"], agreement["alike"]) == (["ann", "bob"], 4, 0.75)
        assert agreement["kappa"] == pytest.approx(0.5)  # p_e = (2/4)(1/4) + (2/4)(3/4)
        assert "κ 0.50, 75 % alike of 4" in bob.page() and "All done" in bob.page()


def test_a_response_is_escaped_and_the_policy_forbids_other_scripts(db):
    with running_page(db) as port:
        ann = Client(port, "ann")
        page = ann.page()
        assert HOSTILE not in page and page.count("&lt;script&gt;") == 3
        policy = ann.headers["content-security-policy"]
        assert policy.startswith("default-src 'none';") and "unsafe" not in policy
        assert "no-store" in ann.headers["cache-control"]


def test_only_the_pages_own_forms_are_accepted(db):
    with running_page(db) as port:
        ann, eve = Client(port, "ann"), Client(port, "eve")
        item = str(ann.item())
        fields = f"item={item}&choice=first&token="
        for body, headers, status in [
            (fields, {}, 403),
            (fields + eve.token(), {}, 403),
            (fields + ann.token(), {"Origin": "http://evil.example"}, 403),
            (fields + ann.token(), {"Origin": "null"}, 403),
            (fields + ann.token(), {"Origin": "http://["}, 403),
            (fields + ann.token(), {"Sec_Fetch_Site": "cross-site"}, 403),
            (fields + ann.token(), {"Host": "evil.example"}, 403),
            (fields + ann.token() + "&reason=" + "x" * 70_000, {}, 413),
            (fields + ann.token() + "&reason=" + "x" * 5_000, {}, 400),
            ("\xff".encode("latin-1"), {}, 400),
        ]:
            assert ann.request("POST", "/vote", body, **headers)[0] == status, (body[:80], headers)
        assert ann.request("GET", "/", Host="evil.example")[0] == 403
        forged = Client(port)
        forged.cookie = eve.cookie.partition("=")[0] + "=" + "YW5u." + eve.cookie.rpartition(".")[2]
        assert "Your name" in forged.page() and forged.request("GET", "/votes.jsonl")[0] == 403
        assert ann.request("POST", "/vote", fields + ann.token(), Origin=f"http://127.0.0.1:{port}")[0] == 303
    assert len(exported_rows(db)) == 1


def test_invalid_votes_are_refused_with_the_reason(db):
    with running_page(db, reason_required=True) as port:
        ann = Client(port, "ann")
        for fields, words in [
            ({"item": 0, "choice": "third", "reason": "x"}, "not an answer to this question"),
            ({"item": 0, "choice": "rank", "reason": "x"}, "not an answer to this question"),
            ({"item": 99, "choice": "first", "reason": "x"}, "no question 99"),
            ({"item": "0'--", "choice": "first", "reason": "x"}, "no question"),
            ({"item": 0, "choice": "first", "reason": " "}, "needs a reason"),
        ]:
            status, text = ann.post("/vote", **fields)
            assert status == 400 and words in text
        assert ann.vote("skip")[0] == 303
        for name in (" ", "x" * 81, "a\0b"):
            assert "Enter a name" in Client(port).post("/begin", name=name)[1]
    assert exported_rows(db) == []


def test_a_form_sent_twice_is_one_vote(db):
    with running_page(db) as port:
        ann = Client(port, "ann")
        item, token = ann.item(), ann.token()
        for choice in ("first", "second"):
            body = f"item={item}&choice={choice}&token={token}"
            assert ann.request("POST", "/vote", body)[0] == 303
    assert [row["preferred"] for row in exported_rows(db)] == ["a"]


def test_a_ranking_needs_a_rank_of_each(tmp_path):
    db = filled_db(tmp_path / "b", count=2, responses=3)
    with running_page(db) as port:
        ann = Client(port, "ann")
        for ranks in ({"rank0": 1, "rank1": 2}, {"rank0": 1, "rank1": 2, "rank2": 4}, {}):
            assert ann.vote("rank", **ranks)[0] == 400
        assert ann.vote("first")[0] == 400
        assert ann.vote("rank", rank0=3, rank1=1, rank2=1)[0] == 303
    assert [row["ranking"] for row in exported_rows(db)] == [[2, 1, 1]]


def test_a_key_is_required_where_there_is_one(db):
    with running_page(db, key="open sesame") as port:
        stranger = Client(port)
        assert stranger.post("/begin", name="ann", key="sesame")[0] == 403
        ann = Client(port, "ann", key="open sesame")
        assert ann.request("GET", "/", Host="elsewhere.example")[0] == 200
        old = ann.cookie
    with running_page(db, key="another") as port:
        late = Client(port)
        late.cookie = old
        assert "Your name" in late.page(), "a cookie of another key is not valid"


def test_no_request_breaks_the_page(db):
    rng = random.Random(0)
    routes = (
        "POST /vote, POST /begin, POST /undo, GET /, PUT /, GET /status, GET /votes.jsonl, POST /none?x=%ff"
    )
    with running_page(db) as port:
        ann = Client(port, "ann")
        own, cookie = ann.token(), ann.cookie
        pieces = [
            f"token={own}",
            "item=0",
            "choice=first",
            "reason=%ff%00",
            "rank0=1",
            "item=\u0663",
            "token=\x00",
        ]
        pieces += [
            "item=" + "9" * 5000,
            "name=%ed%a0%80",
            "&" * 80,
            "a=b;c",
            "key=\U0001d11e",
            "=",
            "choice[]=first",
        ]
        cookies = (cookie, cookie[:-9], cookie[:15], "annotator=\xff.\xfe", "annotator==", "")
        more = ({}, {"Content_Type": "multipart/form-data"}, {"Origin": "http://[::1"}, {"Origin": "x"})
        for _ in range(150):
            body = "&".join(rng.sample(pieces, rng.randint(0, 4))).encode() + rng.randbytes(
                rng.choice((0, 0, 2))
            )
            method, path = rng.choice(routes.split(", ")).split()
            ann.cookie = rng.choice(cookies)
            status, text = ann.request(method, path, body, **rng.choice(more))
            assert status < 500, (method, path, body, text)
        ann.cookie = cookie
        assert "prompt" in ann.page() and all(row["annotator"] == "ann" for row in exported_rows(db))
