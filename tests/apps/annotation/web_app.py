"""A page for annotators in a thread of this process, and a bare client for it."""

import contextlib
import http.client
import json
import re
import threading
from urllib.parse import urlencode

import uvicorn

from jaxtrain.apps.annotation import web
from jaxtrain.apps.annotation.db import AnnotationDB
from jaxtrain.apps.serve import http as serve_http
from jaxtrain.measures import agreement

HOSTILE = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\">&amp;"


def filled(path, count=4, responses=2, wanted=1, lease=60.0):
    """A store of `count` prompts, whose responses say which they are."""
    made = AnnotationDB(path, lease)
    rows = []
    for n in range(count):
        written = [{"text": f"response {n}.{i} {HOSTILE}", "model": f"m{i}"} for i in range(responses)]
        rows.append((n, [{"role": "user", "content": f"prompt {n} {HOSTILE}"}], written, "", wanted))
    made.add(rows)
    return made


@contextlib.contextmanager
def served(ballots, key="", reasoned=False, port=0):
    """The port of the page."""
    sock = serve_http.listen("127.0.0.1", port)
    made = web.open_app(ballots, agreement.annotator_agreement, key, reasoned)
    server = uvicorn.Server(uvicorn.Config(web.app(made), log_level="critical", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    try:
        yield sock.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


class Client:
    """One annotator without a browser."""

    def __init__(self, port, name="", **more):
        self.port, self.cookie = port, ""
        if name:
            assert self.post("/begin", name=name, **more)[0] == 303

    def ask(self, method, path, body=None, **headers):
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(link):
            headers = {name.replace("_", "-"): value for name, value in headers.items()}
            link.request(method, path, body, {"Cookie": self.cookie, **headers})
            found = link.getresponse()
            if cookie := found.headers.get("set-cookie"):
                self.cookie = cookie.partition(";")[0]
            self.headers = found.headers
            return found.status, found.read().decode()

    def page(self):
        return self.ask("GET", "/")[1]

    def token(self):
        return re.search(r'name="token" value="(\w+)"', self.page())[1]

    def item(self):
        found = re.search(r'name="item" value="(\d+)"', self.page())
        return int(found[1]) if found else None

    def post(self, path, headers=(), **fields):
        return self.ask("POST", path, urlencode({"token": self.token(), **fields}), **dict(headers))

    def vote(self, choice, **more):
        return self.post("/vote", item=self.item(), choice=choice, **more)

    def status(self):
        return json.loads(self.ask("GET", "/status")[1])


def rows(ballots):
    return [json.loads(line) for line in ballots.export().splitlines()]
