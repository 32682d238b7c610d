"""What confines a process, in a process of its own; and what each part says where it cannot be set."""

import json
import platform
import subprocess
import sys

import pytest

from jaxtrain.rewards.sandbox import confine
from jaxtrain.rewards.sandbox.confine import Limits

PROGRAM = """
import json, os, resource, sys
from jaxtrain.rewards.sandbox import confine
limits = confine.Limits(seconds=3.5, memory=500, open_files=32)
lines = confine.limit(limits, 2)
lines += confine.restrict_files(sys.argv[1], [os.path.dirname(os.__file__)], confine.LAYERS)
lines += confine.drop_privileges() + confine.filter_calls(confine.LAYERS)
seen = {}
inside, outside = sys.argv[1] + "/x", sys.argv[2]
for name, path, mode in (("inside", inside, "w"), ("outside", outside, "r"), ("write", outside, "w")):
    try:
        open(path, mode).close()
        seen[name] = True
    except OSError:
        seen[name] = False
names = ("RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_NOFILE", "RLIMIT_CORE")
seen["limits"] = [resource.getrlimit(getattr(resource, name))[1] for name in names]
seen["lines"] = lines
print(json.dumps(seen))
"""


@pytest.mark.skipif(platform.system() != "Linux", reason="needs Linux")
def test_a_process_is_confined(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").write_text("secret")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "in"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seen = json.loads(done.stdout)
    assert seen["limits"] == [500 << 20, 5, 2 << 20, 32, 0]
    if not any("Landlock" in line for line in seen["lines"]):
        assert (seen["inside"], seen["outside"], seen["write"]) == (True, False, False)
        assert (tmp_path / "out").read_text() == "secret"
    known = ("rules on files", "a filter of system calls", "the end of privileges")
    assert all(line.startswith(known) for line in seen["lines"])


def test_a_system_without_them_says_what_is_open(monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    lines = confine.unshare(confine.LAYERS)
    confine.mount_folder("/x", Limits(), confine.LAYERS, lines)
    lines += confine.restrict_files("/x", [], confine.LAYERS) + confine.filter_calls(confine.LAYERS)
    confine.unshare_processes(confine.LAYERS)
    confine.end_with_parent()
    confine.adopt_orphans()
    assert [line.partition(" (")[0].partition(":")[0] for line in lines] == [
        "namespaces", "a size of the folder", "rules on files", "a filter of system calls",
    ]  # fmt: skip
    assert "Darwin" in " ".join(lines)


def test_layers_that_are_not_wanted_are_not_set():
    assert confine.unshare(()) == confine.restrict_files("/x", [], ()) == confine.filter_calls(()) == []
