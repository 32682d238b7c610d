import importlib.util
import subprocess
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parent.parent.parent / "launch"
PAGE = """# Page

| command | GiB | ms | MFU |
|---|---|---|---|
| `./launch/run plan --chip=v5e:4x4 --exact` | 1 of 2 | old | old |
| `./launch/run plan --chip=h100:8` | - | - | - |
| `./launch/run pretrain` | keep |
"""


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("plan_table", LAUNCH / "plan_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(command, **how):
        assert command[:2] == ["./launch/run", "plan"] and command[-1] == "--row" and how["check"]
        if "--chip=h100:8" in command:
            raise subprocess.CalledProcessError(2, command)
        return subprocess.CompletedProcess(command, 0, "a note\n9.75 of 15.75 | 1 to 2 | 30 % to 60 %\n")

    monkeypatch.setattr(module.subprocess, "run", run)
    return module


def test_rows_get_what_their_commands_print(script, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert script.main(["plan_table", str(page)]) == 1  # the second one fails, and stays as it is
    assert page.read_text() == PAGE.replace("1 of 2 | old | old", "9.75 of 15.75 | 1 to 2 | 30 % to 60 %")
    assert "exit status 2: ./launch/run plan --chip=h100:8" in capsys.readouterr().err


def test_words_choose_rows(script, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert script.main(["plan_table", str(page), "v5e", "exact"]) == 0
    assert "9.75 of 15.75" in page.read_text()
    page.write_text(PAGE)
    assert script.main(["plan_table", str(page), "v6e"]) == 0 and page.read_text() == PAGE


def test_without_a_page_it_says_how(script, capsys):
    assert (
        script.main(["plan_table"]) == 2 and "launch/plan_table.py docs/devices.md" in capsys.readouterr().out
    )
