"""The chat page: files without data. Its script asks the API, with the key that the reader enters if one is needed."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from jaxtrain.apps.serve import http
from jaxtrain.apps.serve.server import Server

_PAGES = Path(__file__).parent / "pages"
# path -> (file, its type)
_FILES = {
    "/": ("chat.html", "text/html"),
    **{f"/pages/{name}.js": (f"{name}.js", "text/javascript") for name in ("api", "chat", "store", "tokens")},
    "/pages/chat.css": ("chat.css", "text/css"),
}


def _file(name: str, kind: str) -> Callable[[Server, Request], Awaitable[Response]]:
    content = (_PAGES / name).read_bytes()

    async def send(server: Server, request: Request) -> Response:
        return Response(content, media_type=kind, headers=http.PAGE_HEADERS)

    return send


# (method, path, handler, whether it needs the key) each.
ROUTES = [("GET", path, _file(*file), False) for path, file in _FILES.items()]
