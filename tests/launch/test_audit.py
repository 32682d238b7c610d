"""launch/audit.py and launch/cpu.lock: what is pinned, with which hashes, and what is known of it."""

import http.server
import importlib.util
import json
import re
import runpy
import subprocess
import sys
import threading

import pytest
from packaging.requirements import Requirement

from tests.source import ROOT

PYTHONS = ("3.11", "3.12", "3.13")
AUDIT = ROOT / "launch" / "audit.py"
spec = importlib.util.spec_from_file_location("audit", AUDIT)
audit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(audit)


def environments():
    return [
        {"python_version": one, "python_full_version": f"{one}.9", "sys_platform": "linux"} for one in PYTHONS
    ]


def requirements(text):
    """Requirement lines, with their hashes."""
    joined = re.sub(r"#.*", "", text).replace("\\\n", " ")
    lines = [line.split(" --hash=") for line in joined.splitlines() if line.strip()]
    return [(Requirement(line), hashes) for line, *hashes in lines]


def versions(text, environment):
    """Name -> version of the lines that an environment installs."""
    wanted = [one for one, _ in requirements(text) if not one.marker or one.marker.evaluate(environment)]
    return {one.name.lower(): str(one.specifier).removeprefix("==") for one in wanted}


def declared(monkeypatch):
    """The keywords of setup.py's call of setup."""
    keywords = {}
    monkeypatch.setattr("setuptools.setup", keywords.update)
    monkeypatch.setattr("setuptools.find_packages", lambda **_: [])
    runpy.run_path(str(ROOT / "setup.py"))
    return keywords


def test_the_lock_has_what_setup_asks_for_at_the_versions_of_constraints_with_hashes(monkeypatch):
    lock = (ROOT / "launch" / "cpu.lock").read_text()
    constraints = (ROOT / "constraints.txt").read_text()
    locked = re.search(r'^LOCKED="(.*?)"', (ROOT / "launch" / "setup.sh").read_text(), re.M)[1].split()
    package = declared(monkeypatch)
    wanted = [
        *package["install_requires"],
        *(line for one in locked for line in package["extras_require"][one]),
    ]
    assert len(wanted) > 20
    for environment in environments():
        pins, known = versions(lock, environment), versions(constraints, environment)
        assert {name: known.get(name) for name in pins} == pins
        for line in map(Requirement, wanted):
            assert line.specifier.contains(pins[line.name.lower().replace("_", "-")]), line
    for line, hashes in requirements(lock):
        assert re.fullmatch(r"==[^,*]+", str(line.specifier)), line
        assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}\s*", one) for one in hashes), line


@pytest.fixture
def lock(tmp_path):
    path = tmp_path / "cpu.lock"
    path.write_text(
        "# pins\nsix==1.16.0 ; python_version < '3.12' \\\n    --hash=sha256:0\nsix==1.17.0\ntoml==0.10.2\n"
    )
    return path


def test_advisories(lock, tmp_path, capsys, monkeypatch):
    file = tmp_path / "advisories.json"
    assert audit.main([], lock, file) == 0
    assert "audit skipped: there is no advisories.json" in capsys.readouterr().out
    bad = {"id": "PYSEC-1", "fix_versions": ["1.17.0"]}
    file.write_text(json.dumps([{"name": "six", "version": "1.16.0", "vulns": [bad]},
                                {"name": "six", "version": "1.17.0", "vulns": []}]))  # fmt: skip
    assert audit.main([], lock, file) == 1
    said = capsys.readouterr().out
    assert "six 1.16.0: PYSEC-1, fixed in 1.17.0\n" in said
    assert "audit of 3 packages: advisories: 1, ignored: 0; not in advisories.json: toml 0.10.2" in said
    monkeypatch.setitem(audit.IGNORED, "PYSEC-1", "not reached")
    assert audit.main([], lock, file) == 0
    assert "advisories: 0, ignored: 1" in capsys.readouterr().out


class Osv(http.server.BaseHTTPRequestHandler):
    """What the OSV service answers: an advisory for one version of six."""

    def do_POST(self):
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.17.0"}]}]
        affected = [{"package": {"name": "six", "ecosystem": "PyPI"}, "ranges": ranges}]
        advisory = {"id": "PYSEC-1", "modified": "2026-01-01T00:00:00Z", "affected": affected}
        hit = (query["package"]["name"], query["version"]) == ("six", "1.16.0")
        body = json.dumps({"vulns": [advisory]} if hit else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Tests print nothing."""


@pytest.mark.skipif(not importlib.util.find_spec("pip_audit"), reason="needs the extra audit")
def test_update_writes_what_the_service_answers(lock, tmp_path, capsys):
    file = tmp_path / "advisories.json"
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Osv) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        service = ["--vulnerability-service=osv", f"--osv-url=http://127.0.0.1:{server.server_port}/v1/query"]
        assert audit.main(["--update", *service], lock, file) == 1
        server.shutdown()
    assert "six 1.16.0: PYSEC-1, fixed in 1.17.0" in capsys.readouterr().out
    names = sorted((one["name"], one["version"]) for one in json.loads(file.read_text()))
    assert names == audit.pins(lock)
    # Nobody answers: the file stays as it was.
    before = file.read_text()
    assert audit.main(["--update", *service], lock, file) == 1
    assert "launch/audit.py: " in capsys.readouterr().err and file.read_text() == before


def test_arguments():
    ran = subprocess.run([sys.executable, AUDIT, "--what"], capture_output=True, text=True)
    assert ran.returncode == 2 and "--update" in ran.stdout
