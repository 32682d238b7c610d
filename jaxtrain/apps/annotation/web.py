"""The page on which people say what they prefer: forms that work without a script, keys and patience with one."""

import base64
import functools
import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from jaxtrain.apps.annotation.db import AnnotationDB, AnnotationItem
from jaxtrain.apps.serve.app import LOOPBACK
from jaxtrain.data import preferences_db
from jaxtrain.files import html

PAIR = (
    ("1", "first", "A is better"),
    ("2", "second", "B is better"),
    ("3", "tie", "Tie"),
    ("4", preferences_db.BOTH_BAD, "Both bad"),
)
LONGEST_NAME, LONGEST_REASON, LONGEST_BODY = 80, 4000, 64 * 1024
_PAGES = Path(__file__).parent / "pages"
_COOKIE = "annotator"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class AnnotationApp(NamedTuple):
    """`agree` makes of everybody's labels rows of who, count, alike, kappa (measures/agreement.py)."""

    ballots: AnnotationDB
    agree: Callable[[Mapping[str, Mapping[Any, str]]], list[dict[str, Any]]]
    key: str  # that annotators type in first; empty: only this machine is served
    reasoned: bool  # no answer without a reason
    secret: bytes  # signs cookies and forms


class _Wrong(Exception):
    """A request that is not done. Nothing of it is kept."""

    def __init__(self, status: int, said: str):
        super().__init__(said)
        self.status = status


def open_app(ballots: AnnotationDB, agree: Callable, key: str, reasoned: bool) -> AnnotationApp:
    """The secret is the file's: a page that was open while the server was killed goes on with the next one."""
    secret = ballots.about("secret", secrets.token_hex(32))
    return AnnotationApp(ballots, agree, key, reasoned, bytes.fromhex(secret))


def app(booth: AnnotationApp) -> Starlette:
    """The application."""
    routes = [
        ("GET", "/", index), ("GET", "/status", status), ("GET", "/votes.jsonl", export), ("POST", "/begin", sign_in),
        ("POST", "/vote", vote), ("POST", "/undo", undo), ("POST", "/unskip", unskip), ("POST", "/leave", sign_out),
    ]  # fmt: skip
    files = [("/page.css", "text/css"), ("/page.js", "text/javascript")]
    return Starlette(
        routes=[
            *(Route(path, _endpoint(booth, work), methods=[method]) for method, path, work in routes),
            *(Route(path, _endpoint(booth, _file(path, kind)), methods=["GET"]) for path, kind in files),
        ]
    )


Work = Callable[[AnnotationApp, Request, str, Mapping[str, str]], Response]


def _endpoint(booth: AnnotationApp, work: Work) -> Callable[[Request], Awaitable[Response]]:
    async def run(request: Request) -> Response:
        try:
            _require_here(booth, request)
            who = _signed_in(booth, request.cookies.get(_COOKIE, ""))
            form = await _form(booth, request, who) if request.method == "POST" else {}
            response = await run_in_threadpool(work, booth, request, who, form)
        except _Wrong as error:
            response = Response(f"{error}\n", error.status, media_type="text/plain")
        response.headers.update(_HEADERS)
        return response

    return run


def _require_here(booth: AnnotationApp, request: Request) -> None:
    """Raises _Wrong for a name that another site may have given this machine, and for another site's forms."""
    host = request.url.hostname or ""
    if not booth.key and host not in LOOPBACK:
        raise _Wrong(403, f"without --api_key only this machine is served, not {host or 'this'}")
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "same-origin")
    if request.method == "POST" and (
        site not in ("same-origin", "none") or (origin and urlsplit(origin).netloc != request.url.netloc)
    ):
        raise _Wrong(403, "the form is another site's")


async def _form(booth: AnnotationApp, request: Request, who: str) -> dict[str, str]:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > LONGEST_BODY:
            raise _Wrong(413, f"the form is larger than {LONGEST_BODY:,} bytes")
    try:
        found = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=64)
    except ValueError as error:
        raise _Wrong(400, "not a form") from error
    form = {name: values[0] for name, values in found.items()}
    if not hmac.compare_digest(form.get("token", "").encode(), _token(booth, who).encode()):
        raise _Wrong(403, "the form is not of this page, or of another annotator: load the page again")
    return form


def _mac(booth: AnnotationApp, *parts: str) -> str:
    return hmac.new(booth.secret, "\0".join(parts).encode(), hashlib.sha256).hexdigest()


def _token(booth: AnnotationApp, who: str) -> str:
    """What a form of the page has, and no other site's can."""
    return _mac(booth, "form", who)


def _signed_in(booth: AnnotationApp, cookie: str) -> str:
    """The annotator; empty where nobody is."""
    name, _, mac = cookie.partition(".")
    try:
        who = base64.urlsafe_b64decode(name.encode()).decode()
    except ValueError:
        return ""
    return who if hmac.compare_digest(mac.encode(), _mac(booth, "who", booth.key, who).encode()) else ""


def _known(who: str) -> str:
    if not who:
        raise _Wrong(403, "nobody is signed in: load the page again and give a name")
    return who


def _again() -> Response:
    return RedirectResponse("/", 303)


def sign_in(booth: AnnotationApp, request: Request, who: str, form: Mapping[str, str]) -> Response:
    """Signs an annotator in."""
    name = " ".join(form.get("name", "").split())
    if booth.key and not hmac.compare_digest(form.get("key", "").encode(), booth.key.encode()):
        return _page(booth, "", said="That is not the key.", status=403)
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        return _page(booth, "", said=f"Give a name of 1 to {LONGEST_NAME} letters.", status=400)
    value = f"{base64.urlsafe_b64encode(name.encode()).decode()}.{_mac(booth, 'who', booth.key, name)}"
    response = _again()
    response.set_cookie(_COOKIE, value, httponly=True, samesite="strict", max_age=90 * 24 * 3600)
    return response


def sign_out(booth: AnnotationApp, request: Request, who: str, form: Mapping[str, str]) -> Response:
    """Signs the annotator out."""
    response = _again()
    response.delete_cookie(_COOKIE)
    return response


def index(booth: AnnotationApp, request: Request, who: str, form: Mapping[str, str]) -> Response:
    """The page: who are you, the next question, or that there is none."""
    return _page(booth, who)


def vote(booth: AnnotationApp, request: Request, who: str, form: Mapping[str, str]) -> Response:
    """Keeps an answer; it is on the disk before the page goes on."""
    number, choice = form.get("item", ""), form.get("choice", "")
    item = booth.ballots.item(int(number), _known(who)) if number.isdecimal() and len(number) < 12 else None
    if item is None:
        raise _Wrong(400, f"there is no question {number[:20]}")
    reason = form.get("reason", "").strip()
    if len(reason) > LONGEST_REASON:
        raise _Wrong(400, f"the reason is longer than {LONGEST_REASON:,} letters")
    if booth.reasoned and not reason and choice != preferences_db.SKIP:
        raise _Wrong(400, "an answer needs a reason here (--reason=required)")
    kind, places = _answer(item, choice, form)
    booth.ballots.vote(who, item.number, kind, places, reason, item.shown)
    return _again()


def _answer(item: AnnotationItem, choice: str, form: Mapping[str, str]) -> tuple[str, list[int]]:
    """(kind of vote, place of each response as shown)."""
    if choice == preferences_db.SKIP:
        return preferences_db.SKIP, []
    count = len(item.shown)
    if count == 2 and choice in (names := {one: i for i, (_, one, _) in enumerate(PAIR)}):
        places = [[1, 2], [2, 1], [1, 1], [1, 1]][names[choice]]
        return (
            preferences_db.BOTH_BAD if choice == preferences_db.BOTH_BAD else preferences_db.CHOSEN
        ), places
    given = [form.get(f"rank{i}", "") for i in range(count)]
    if choice == "rank" and count > 2 and all(one in map(str, range(1, count + 1)) for one in given):
        return preferences_db.CHOSEN, [int(one) for one in given]
    raise _Wrong(400, "that is no answer to this question" if count == 2 else "give each response a rank")


def undo(booth: AnnotationApp, request: Request, who: str, form: Mapping[str, str]) -> Response:
    """Takes the last answer back."""
    booth.ballots.undo(_known(who))
    return _again()


def unskip(booth: AnnotationApp, request: Request, who: str, form: Mapping[str, str]) -> Response:
    """Shows what was skipped again."""
    booth.ballots.unskip(_known(who))
    return _again()


def status(booth: AnnotationApp, request: Request, who: str, form: Mapping[str, str]) -> Response:
    """How far it is, for programs."""
    told = booth.ballots.progress(_known(who))._asdict()
    return JSONResponse(told | {"agreement": booth.agree(booth.ballots.labels())})


def export(booth: AnnotationApp, request: Request, who: str, form: Mapping[str, str]) -> Response:
    """All votes, a line each."""
    _known(who)
    name = {"Content-Disposition": 'attachment; filename="votes.jsonl"'}
    return Response(booth.ballots.export(), media_type="application/jsonl", headers=name)


def _page(booth: AnnotationApp, who: str, said: str = "", status: int = 200) -> Response:
    item = booth.ballots.next(who) if who else None
    text = _template().render(
        who=who, item=item, said=said, token=_token(booth, who), keyed=bool(booth.key), reasoned=booth.reasoned,
        progress=booth.ballots.progress(who) if who else None, pair=PAIR, longest=LONGEST_NAME,
        agreement=booth.agree(booth.ballots.labels()) if who else [], most=LONGEST_REASON,
    )  # fmt: skip
    return Response(text, status, media_type="text/html")


@functools.cache
def _template() -> Any:
    return html.template(_PAGES / "page.html.jinja")


def _file(path: str, kind: str) -> Work:
    content = (_PAGES / path.removeprefix("/")).read_bytes()
    return lambda booth, request, who, form: Response(content, media_type=kind)
