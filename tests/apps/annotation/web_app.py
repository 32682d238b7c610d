"""The annotation page in a thread of this process, and an HTTP client for it."""

import contextlib
import http.client
import json
import re
import threading
from urllib.parse import urlencode

import uvicorn

from jaxtrain.apps.annotation import web
from jaxtrain.apps.annotation.db import AnnotationDB, ItemRow
from jaxtrain.apps.serve import http as serve_http
from jaxtrain.measures import agreement

HOSTILE = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\">&amp;"


def filled_db(path, count=4, responses=2, wanted=1, lease=60.0):
    """A database of `count` items, whose responses have their numbers in their texts."""
    db = AnnotationDB(path, lease)
    rows = []
    for n in range(count):
        responses_of_n = [{"text": f"response {n}.{i} {HOSTILE}", "model": f"m{i}"} for i in range(responses)]
        messages = [{"role": "user", "content": f"prompt {n} {HOSTILE}"}]
        rows.append(ItemRow(n, messages, responses_of_n, "", wanted))
    db.add_items(rows)
    return db


@contextlib.contextmanager
def running_page(db, key="", reason_required=False, port=0):
    """The port of the page."""
    sock = serve_http.listen("127.0.0.1", port)
    page = web.open_app(db, agreement.annotator_agreement, key, reason_required)
    server = uvicorn.Server(uvicorn.Config(web.app(page), log_level="critical", timeout_graceful_shutdown=1))
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

    def request(self, method, path, body=None, **headers):
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(link):
            headers = {name.replace("_", "-"): value for name, value in headers.items()}
            link.request(method, path, body, {"Cookie": self.cookie, **headers})
            response = link.getresponse()
            if cookie := response.headers.get("set-cookie"):
                self.cookie = cookie.partition(";")[0]
            self.headers = response.headers
            return response.status, response.read().decode()

    def page(self):
        return self.request("GET", "/")[1]

    def token(self):
        return re.search(r'name="token" value="(\w+)"', self.page())[1]

    def item(self):
        match = re.search(r'name="item" value="(\d+)"', self.page())
        return int(match[1]) if match else None

    def post(self, path, headers=(), **fields):
        return self.request("POST", path, urlencode({"token": self.token(), **fields}), **dict(headers))

    def vote(self, choice, **more):
        return self.post("/vote", item=self.item(), choice=choice, **more)

    def status(self):
        return json.loads(self.request("GET", "/status")[1])


def exported_rows(db):
    return [json.loads(line) for line in db.export().splitlines()]
