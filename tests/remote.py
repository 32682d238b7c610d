"""A server with OpenAI's HTTP API on loopback, which misbehaves on request."""

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def chat(texts, *, logprobs=None, finish="stop", usage=(10, 5)):
    """A chat completion as the API has it; `logprobs` is the content of each choice's."""
    choices = [
        {
            "index": i,
            "message": {"role": "assistant", "content": text},
            "finish_reason": finish,
            "logprobs": {"content": logprobs} if logprobs else None,
        }
        for i, text in enumerate(texts)
    ]
    body = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices}
    counts = (
        {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
        if usage
        else None
    )
    return body | ({"usage": counts} if counts else {})


def fault(message, kind="invalid_request_error"):
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


class Remote:
    """`reply(request)`, a text, a whole body, or (status, body), answers.

    `next` are (status, body, headers), or "hang" or "drop", that come before it.
    `seen` are the requests that arrived: (path, body, headers).
    """

    def __init__(self, reply=lambda request: "fine", models=("m",)):
        self.reply, self.models, self.next, self.seen = reply, models, [], []
        self.most, self._under_way, self._lock = 0, 0, threading.Lock()
        self.slow = 0.0  # seconds that each answer takes
        remote = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_GET(self):
                self.send(
                    200,
                    {"object": "list", "data": [{"id": name, "object": "model"} for name in remote.models]},
                )

            def do_POST(self):
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with remote._lock:
                    remote.seen.append((self.path, request, self.headers))
                    remote._under_way += 1
                    remote.most = max(remote.most, remote._under_way)
                    now = remote.next.pop(0) if remote.next else None
                try:
                    time.sleep(remote.slow)
                    self.answer(request, now)
                finally:
                    with remote._lock:
                        remote._under_way -= 1

            def answer(self, request, now):
                if now == "hang":
                    time.sleep(0.6)
                elif now == "drop":
                    self.close_connection = True
                    self.send(200, b'{"id": "chatcmpl-1", ', {"Content-Length": "999"})
                elif now:
                    self.send(*now)
                else:
                    self.send(*remote.whole(request))

            def send(self, status, body, headers=None):
                body = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                fields = {"Content-Type": "application/json", "Content-Length": str(len(body))} | (
                    headers or {}
                )
                for name, value in fields.items():
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    self.wfile.write(body)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True

    def whole(self, request):
        reply = self.reply(request)
        if isinstance(reply, tuple):
            return reply
        if isinstance(reply, dict):
            return 200, reply
        if "prompt" in request:
            texts = [{"index": i, "text": reply, "finish_reason": "stop"} for i in range(request.get("n", 1))]
            return 200, {"id": "cmpl-1", "object": "text_completion", "choices": texts}
        return 200, chat([reply] * request.get("n", 1))

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_port}/v1"

    def __enter__(self):
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
