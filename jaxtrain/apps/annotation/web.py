"""The annotation page. Its forms work without the script, which adds keys and sends a vote again after an outage."""

import base64
import functools
import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from jaxtrain.apps.annotation.db import AnnotationDB, AnnotationItem
from jaxtrain.apps.serve import http
from jaxtrain.data import preferences_db
from jaxtrain.files import html

PAIR = (
    ("1", "first", "A is better"),
    ("2", "second", "B is better"),
    ("3", "tie", "Tie"),
    ("4", preferences_db.BOTH_BAD, "Both bad"),
)
MAX_NAME, MAX_REASON, MAX_BODY = 80, 4000, 64 * 1024
_PAGES = Path(__file__).parent / "pages"
_COOKIE = "annotator"

# Annotator -> labels, to rows of who, count, alike and kappa: measures.agreement.annotator_agreement.
Agreement = Callable[[Mapping[str, Mapping[Any, str]]], list[dict[str, Any]]]


class AnnotationApp(NamedTuple):
    """The state of the annotation page."""

    db: AnnotationDB
    agreement: Agreement
    key: str  # that annotators sign in with; empty: only this machine is served
    reason_required: bool
    secret: bytes  # signs cookies and forms


class _Refused(Exception):
    """A request that is refused with an HTTP status, and changes nothing."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


def open_app(db: AnnotationDB, agreement: Agreement, key: str, reason_required: bool) -> AnnotationApp:
    """The state of the page; its secret is stored in the database, so that open pages survive a restart."""
    secret = bytes.fromhex(db.setting("secret", secrets.token_hex(32)))
    return AnnotationApp(db=db, agreement=agreement, key=key, reason_required=reason_required, secret=secret)


def app(page: AnnotationApp) -> Starlette:
    """The ASGI application."""
    routes = [
        ("GET", "/", index), ("GET", "/status", status), ("GET", "/votes.jsonl", export), ("POST", "/begin", sign_in),
        ("POST", "/vote", vote), ("POST", "/undo", undo), ("POST", "/unskip", unskip), ("POST", "/leave", sign_out),
    ]  # fmt: skip
    files = [("/page.css", "text/css"), ("/page.js", "text/javascript")]
    return Starlette(
        routes=[
            *(Route(path, _endpoint(page, handler), methods=[method]) for method, path, handler in routes),
            *(Route(path, _endpoint(page, _file(path, kind)), methods=["GET"]) for path, kind in files),
        ]
    )


# (page, request, annotator or an empty string, form) -> response
Handler = Callable[[AnnotationApp, Request, str, Mapping[str, str]], Response]


def _endpoint(page: AnnotationApp, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    async def run(request: Request) -> Response:
        try:
            _require_same_site(page, request)
            annotator = _signed_in(page, request.cookies.get(_COOKIE, ""))
            form = await _form(page, request, annotator) if request.method == "POST" else {}
            response = await run_in_threadpool(handler, page, request, annotator, form)
        except _Refused as error:
            response = Response(f"{error}\n", error.status, media_type="text/plain")
        response.headers.update(http.PAGE_HEADERS)
        return response

    return run


def _require_same_site(page: AnnotationApp, request: Request) -> None:
    """Raises _Refused for a host name that another site may have given this machine, and for another site's forms."""
    if not page.key and not http.is_local(request):
        raise _Refused(
            403, f"without --api_key only this machine is served, not {http.host_name(request) or 'this'}"
        )
    if request.method == "POST" and not http.is_same_site(request):
        raise _Refused(403, "the form is of another site")


async def _form(page: AnnotationApp, request: Request, annotator: str) -> dict[str, str]:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY:
            raise _Refused(413, f"the form is larger than {MAX_BODY:,} bytes")
    try:
        fields = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=64)
    except ValueError as error:
        raise _Refused(400, "not a form") from error
    form = {name: values[0] for name, values in fields.items()}
    if not hmac.compare_digest(form.get("token", "").encode(), _token(page, annotator).encode()):
        raise _Refused(403, "the form is not of this page, or of another annotator: load the page again")
    return form


def _mac(page: AnnotationApp, *parts: str) -> str:
    return hmac.new(page.secret, "\0".join(parts).encode(), hashlib.sha256).hexdigest()


def _token(page: AnnotationApp, annotator: str) -> str:
    """The CSRF token of an annotator's forms."""
    return _mac(page, "form", annotator)


def _cookie_mac(page: AnnotationApp, annotator: str) -> str:
    return _mac(page, "who", page.key, annotator)


def _signed_in(page: AnnotationApp, cookie: str) -> str:
    """The annotator that a cookie signs in; empty where it is not valid."""
    name, _, mac = cookie.partition(".")
    try:
        annotator = base64.urlsafe_b64decode(name.encode()).decode()
    except ValueError:
        return ""
    return annotator if hmac.compare_digest(mac.encode(), _cookie_mac(page, annotator).encode()) else ""


def _require_signed_in(annotator: str) -> str:
    if not annotator:
        raise _Refused(403, "no annotator is signed in: load the page again and enter a name")
    return annotator


def _to_index() -> Response:
    return RedirectResponse("/", 303)


def sign_in(page: AnnotationApp, request: Request, annotator: str, form: Mapping[str, str]) -> Response:
    """The redirect that signs an annotator in, or the page with what is wrong."""
    name = " ".join(form.get("name", "").split())
    if page.key and not hmac.compare_digest(form.get("key", "").encode(), page.key.encode()):
        return _render(page, "", message="That is not the key.", status=403)
    if not name or len(name) > MAX_NAME or not name.isprintable():
        return _render(page, "", message=f"Enter a name of 1 to {MAX_NAME} letters.", status=400)
    value = f"{base64.urlsafe_b64encode(name.encode()).decode()}.{_cookie_mac(page, name)}"
    response = _to_index()
    response.set_cookie(_COOKIE, value, httponly=True, samesite="strict", max_age=90 * 24 * 3600)
    return response


def sign_out(page: AnnotationApp, request: Request, annotator: str, form: Mapping[str, str]) -> Response:
    """The redirect that signs the annotator out."""
    response = _to_index()
    response.delete_cookie(_COOKIE)
    return response


def index(page: AnnotationApp, request: Request, annotator: str, form: Mapping[str, str]) -> Response:
    """The page: the sign-in form, the next item, or that nothing is left."""
    return _render(page, annotator)


def vote(page: AnnotationApp, request: Request, annotator: str, form: Mapping[str, str]) -> Response:
    """The redirect after a vote, which is on the disk by then."""
    number, choice = form.get("item", ""), form.get("choice", "")
    item = None
    if number.isdecimal() and len(number) < 12:
        item = page.db.item(int(number), _require_signed_in(annotator))
    if item is None:
        raise _Refused(400, f"there is no question {number[:20]}")
    reason = form.get("reason", "").strip()
    if len(reason) > MAX_REASON:
        raise _Refused(400, f"the reason is longer than {MAX_REASON:,} letters")
    if page.reason_required and not reason and choice != preferences_db.SKIP:
        raise _Refused(400, "an answer needs a reason here (--reason=required)")
    kind, places = _vote(item, choice, form)
    page.db.add_vote(annotator, item.number, kind, places, reason, item.shown)
    return _to_index()


def _vote(item: AnnotationItem, choice: str, form: Mapping[str, str]) -> tuple[str, list[int]]:
    """(kind of vote, place of each response as shown)."""
    if choice == preferences_db.SKIP:
        return preferences_db.SKIP, []
    count = len(item.shown)
    if count == 2 and choice in (names := {value: i for i, (_, value, _) in enumerate(PAIR)}):
        places = [[1, 2], [2, 1], [1, 1], [1, 1]][names[choice]]
        both_bad = choice == preferences_db.BOTH_BAD
        return preferences_db.BOTH_BAD if both_bad else preferences_db.CHOSEN, places
    ranks = [form.get(f"rank{i}", "") for i in range(count)]
    if choice == "rank" and count > 2 and all(rank in map(str, range(1, count + 1)) for rank in ranks):
        return preferences_db.CHOSEN, [int(rank) for rank in ranks]
    raise _Refused(400, "not an answer to this question" if count == 2 else "give each response a rank")


def undo(page: AnnotationApp, request: Request, annotator: str, form: Mapping[str, str]) -> Response:
    """The redirect after the last vote is undone."""
    page.db.undo(_require_signed_in(annotator))
    return _to_index()


def unskip(page: AnnotationApp, request: Request, annotator: str, form: Mapping[str, str]) -> Response:
    """The redirect after all skips are undone."""
    page.db.unskip(_require_signed_in(annotator))
    return _to_index()


def status(page: AnnotationApp, request: Request, annotator: str, form: Mapping[str, str]) -> Response:
    """The progress and the agreement of the annotators as JSON."""
    progress = page.db.progress(_require_signed_in(annotator))._asdict()
    return JSONResponse(progress | {"agreement": page.agreement(page.db.labels())})


def export(page: AnnotationApp, request: Request, annotator: str, form: Mapping[str, str]) -> Response:
    """All votes as JSON lines."""
    _require_signed_in(annotator)
    name = {"Content-Disposition": 'attachment; filename="votes.jsonl"'}
    return Response(page.db.export(), media_type="application/jsonl", headers=name)


def _render(page: AnnotationApp, annotator: str, message: str = "", status: int = 200) -> Response:
    text = _template().render(
        annotator=annotator,
        item=page.db.next_item(annotator) if annotator else None,
        message=message,
        token=_token(page, annotator),
        key_required=bool(page.key),
        reason_required=page.reason_required,
        progress=page.db.progress(annotator) if annotator else None,
        agreement=page.agreement(page.db.labels()) if annotator else [],
        pair=PAIR,
        max_name=MAX_NAME,
        max_reason=MAX_REASON,
    )
    return Response(text, status, media_type="text/html")


@functools.cache
def _template() -> Any:
    return html.template(_PAGES / "page.html.jinja")


def _file(path: str, kind: str) -> Handler:
    content = (_PAGES / path.removeprefix("/")).read_bytes()
    return lambda page, request, annotator, form: Response(content, media_type=kind)
