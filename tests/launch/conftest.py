"""A project in miniature: the real launchers around a package that installs without an index."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# A build backend in the tree: counts the installs, and waits or fails while a file says so.
BACKEND = """
import pathlib, time, zipfile

ROOT = pathlib.Path(__file__).parent

def get_requires_for_build_editable(config_settings=None):
    return []

def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    with (ROOT / "installs").open("a") as log:
        log.write("x")
    while (ROOT / "wait").exists():
        time.sleep(0.02)
    if (ROOT / "break").exists():
        raise OSError("no such mirror")
    info = "jaxtrain-0.1.0.dist-info"
    extras = "".join(f"Provides-Extra: {e}\\n" for e in ("cpu", "cuda", "tpu", "hf", "test"))
    files = {
        "jaxtrain.pth": str(ROOT),
        f"{info}/METADATA": f"Metadata-Version: 2.1\\nName: jaxtrain\\nVersion: 0.1.0\\n{extras}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\\n" for name in [*files, f"{info}/RECORD"])
    name = "jaxtrain-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(wheel_directory) / name, "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
    return name
"""

# A stage that says what it got, then does what its first argument says.
STAGE = '''
"""Shows what a stage gets.

Not in the list.
"""
import json, os, pathlib, signal, sys, time

def main():
    seen = {k: v for k, v in os.environ.items() if k.startswith(("JAX_", "JAXTRAIN_"))}
    print(json.dumps({"argv": sys.argv[1:], "cwd": os.getcwd(), "env": seen}), flush=True)
    here = os.environ.get("JAXTRAIN_PROCESS_ID", "0")
    if f"--fail={here}" in sys.argv:
        sys.exit(7)
    if "--hang" in sys.argv:  # in C code, which no handler of Python's interrupts
        import hashlib
        signal.signal(signal.SIGTERM, lambda *_: None)
        pathlib.Path(f"up-{here}").write_text(str(os.getpid()))
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
    if "--wait" in sys.argv:  # it saves, and ends as a stage that SIGTERM has stopped
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(pathlib.Path(f"saved-{here}").touch() or 143))
        pathlib.Path(f"up-{here}").touch()
        time.sleep(60)

if __name__ == "__main__":
    main()
'''


class Project:
    """A folder with the launchers, and how to call them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.copytree(ROOT / "launch", root / "launch", ignore=shutil.ignore_patterns("__pycache__"))
        files = {
            "setup.py": "# a part of the stamp, not run here\n",
            "constraints.txt": "",
            "launch/cpu.lock": "",
            "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
            "backend.py": BACKEND,
            "experiments/__init__.py": "",
            "experiments/show.py": STAGE.lstrip(),
            "experiments/common.py": '"""Shared by stages, not one."""\n',
        }
        for name, text in files.items():
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_text(textwrap.dedent(text))

    def environment(self, **extra: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("JAX", "XLA", "TPU_", "PYTHON"))}
        base = {"JAXTRAIN_PYTHON": sys.executable, "JAXTRAIN_ACCELERATOR": "cpu", "PIP_NO_INDEX": "1"}
        return {k: v for k, v in {**kept, **base, **extra}.items() if v}

    def start(self, *command: str, cwd: Path | None = None, **env: str) -> subprocess.Popen:
        """Starts a launcher in a process group of its own, so that a test can kill all of it."""
        return subprocess.Popen(
            [str(self.root / command[0]), *command[1:]],
            cwd=cwd or self.root,
            env=self.environment(**env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def call(self, *command: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess:
        process = self.start(*command, cwd=cwd, **env)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    @property
    def installs(self) -> int:
        log = self.root / "installs"
        return len(log.read_text()) if log.exists() else 0


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Nothing is installed; the path has a space in it."""
    root = tmp_path / "a project"
    root.mkdir()
    return Project(root)


@pytest.fixture(scope="session")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Set up once, for tests that leave it so."""
    project = Project(tmp_path_factory.mktemp("ready"))
    done = project.call("launch/setup.sh")
    assert done.returncode == 0, done.stderr
    return project
