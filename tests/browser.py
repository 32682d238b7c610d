"""A headless Chromium, driven over its debugging pipe: clicks and keys. No package is needed."""

import contextlib
import json
import os
import shutil
import subprocess
import time

import pytest

EXECUTABLE = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)
needed = pytest.mark.skipif(EXECUTABLE is None, reason="no Chromium here: apt-get install chromium")
CODES = {"Enter": 13, "Escape": 27, "Backspace": 8, "Tab": 9}


class Page:
    """One tab."""

    def __init__(self, send, session):
        self._send, self._session = send, session
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        return self._send(method, params, self._session)

    def go(self, url):
        self.call("Page.navigate", url=url)
        self.until("document.readyState == 'complete'")

    def reload(self):
        self.js("window.before = true")
        self.call("Page.reload")
        self.until("!window.before && document.readyState == 'complete'")

    def js(self, text):
        response = self.call("Runtime.evaluate", expression=text, returnByValue=True)
        assert "exceptionDetails" not in response, response
        return response["result"].get("value")

    def until(self, text, seconds=10.0):
        """Waits for an expression to be true."""
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            with contextlib.suppress(AssertionError):  # between two pages there is no document
                if self.js(text):
                    return
            time.sleep(0.02)
        raise AssertionError(f"never true: {text}; the page: {self.text()[:600]}")

    def text(self):
        return self.js("document.body.innerText")

    def click(self, selector):
        """A press and a release of the mouse in the middle of an element."""
        self.js(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center'}})")
        box = self.js(
            f"r = document.querySelector({selector!r}).getBoundingClientRect(); [r.x + r.width / 2, r.y + r.height / 2]"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def key(self, key):
        """A press and a release of a key."""
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        code = CODES.get(key, ord(key.upper()) if len(key) == 1 else 0)
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def type(self, text):
        for c in text:
            self.key(c)

    def emulate(self, width=1200, height=800, dark=False):
        """Sets the size of the window and the preferred colour scheme."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)


class Browser:
    """The browser's process. Every page has its own cookies."""

    def __init__(self, folder):
        down, self._write = os.pipe()
        self._read, up = os.pipe()
        flags = [
            "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
            f"--user-data-dir={folder}",
        ]  # fmt: skip

        # Its pipe is at 3 and 4. A shell puts it there: Python's own way forks, which jax's threads forbid.
        script = f'exec "$0" "$@" 3</dev/fd/{down} 4>/dev/fd/{up}'
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", script, EXECUTABLE, *flags], pass_fds=(down, up), stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(down)
        os.close(up)
        self._number, self._rest = 0, b""
        self.events = []

    def send(self, method, params, session=None):
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        message |= {"sessionId": session} if session else {}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            received = self._next()
            if received.get("id") == self._number:
                assert "error" not in received, (method, received["error"])
                return received["result"]
            self.events.append(received)

    def _next(self):
        while b"\0" not in self._rest:
            piece = os.read(self._read, 1 << 16)
            assert piece, "the browser ended"
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\0")
        return json.loads(line)

    def page(self):
        context = self.send("Target.createBrowserContext", {})["browserContextId"]
        target = self.send("Target.createTarget", {"url": "about:blank", "browserContextId": context})[
            "targetId"
        ]
        session = self.send("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        return Page(self.send, session)

    def errors(self):
        """The errors on the browser's console: violations of a policy, exceptions of a script."""
        entries = [one["params"]["entry"] for one in self.events if one.get("method") == "Log.entryAdded"]
        thrown = [one["params"] for one in self.events if one.get("method") == "Runtime.exceptionThrown"]
        return [one["text"] for one in entries if one["level"] == "error"] + thrown

    def close(self):
        os.close(self._write)
        os.close(self._read)
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def opened(folder):
    browser = Browser(folder)
    try:
        yield browser
    finally:
        browser.close()
