"""The page of a run's episodes: what is read of them, that it needs no network, and its filters."""

import json
import re

import pytest

from experiments import episodes
from jaxtrain import flags as command_line
from jaxtrain.config import ConfigError
from jaxtrain.rl import episodes_page
from tests import browser

OLD = {"prompt": "Hi?", "completion": "</script><b>Yes</b>", "ended": True, "score": 0.5}
NEW = {
    "prompt": "Find it", "completion": "Bread.", "ended": False, "score": -1.25, "kl": 0.125, "tokens": 12,
    "environment": {"turns": 2, "tool_errors": 1}, "extra": {"note": float("nan")},
    "turns": [
        {"role": "user", "content": "Find it"},
        {"role": "assistant", "content": "search(<x>)", "reward": -0.25},
        {"role": "user", "content": "It is bread."},
        {"role": "assistant", "content": "Bread.", "reward": -1.0},
    ],
}  # fmt: skip


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "grpo" / "samples" / "rollouts"
    folder.mkdir(parents=True)
    (folder / "00000000.jsonl").write_text(f"{json.dumps(OLD)}\n{{half\n")
    (folder / "00000008.jsonl").write_text(f"{json.dumps(NEW)}\n")
    return tmp_path / "grpo"


def written(run, *more):
    argv = episodes.with_flag([str(run), *more])
    episodes.main(command_line.from_flags(episodes.EpisodesPage, argv))
    return (run / "episodes.html").read_text()


def data(page):
    return json.loads(re.search(r'id="data">(.*)</script>\n<script>', page)[1])


def test_episodes_are_read_the_newest_first_and_what_is_damaged_is_counted(run, capsys):
    page = written(run)
    new, old = data(page)
    assert (new["step"], new["tokens"], new["tool_errors"], new["ended"]) == (8, 12, 1, False)
    assert new["turns"] == [{"reward": None, **turn} for turn in NEW["turns"]] and new["extra"] == {
        "note": None
    }
    assert old["tokens"] is None and old["turns"][1] == {
        "role": "assistant", "content": "</script><b>Yes</b>", "reward": 0.5,
    }  # fmt: skip
    said = capsys.readouterr()
    assert said.out.startswith(f"2 completions, the newest of 3: {run / 'episodes.html'}")
    assert (
        "1 completions cannot be read and are left out: " in said.err
        and "00000000.jsonl:2 (JSONDecodeError" in said.err
    )


def test_the_page_needs_no_network_and_runs_nothing_that_a_completion_says(run):
    page = written(run)
    assert "<b>Yes" not in page and "\\u003c/script>" in page
    assert not re.search(r"(?:src|href)=\"(?!data:)", page) and "://" not in page


def test_the_newest_are_shown_and_the_others_counted(run, capsys):
    page = written(run, "--most=1")
    assert [row["step"] for row in data(page)] == [8] and "1 of 3 completions" in page and "--most" in page
    assert "1 completions, the newest of 3: " in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv, message",
    [
        ((), "--run: name the run whose rollouts"),
        (("{tmp}/none",), "none: there is no such folder"),
        (("{tmp}",), "it has no .*samples/rollouts: name a run of ppo"),
        (("{tmp}/grpo", "--out={tmp}"), "--out=.*: a folder; name the page's file"),
    ],
)
def test_what_is_no_run_is_refused(run, tmp_path, argv, message):
    argv = episodes.with_flag([text.format(tmp=tmp_path) for text in argv])
    with pytest.raises(ConfigError, match=message):
        episodes.main(command_line.from_flags(episodes.EpisodesPage, argv))


def test_damaged_rows_of_every_kind_are_named(tmp_path):
    folder = tmp_path / "samples" / "rollouts"
    folder.mkdir(parents=True)
    rows = [
        "[]",
        "3",
        "{}",
        json.dumps({**OLD, "turns": [1]}),
        json.dumps({**OLD, "turns": [{"role": "user"}]}),
        "",
    ]
    (folder / "00000000.jsonl").write_text("\n".join(rows) + "\n")
    found = episodes_page.read(tmp_path, 9)
    assert found.rows == [] and len(found.damaged) == found.total == 6


@browser.needed
def test_the_filters_choose_by_reward_length_and_tool_errors(run, tmp_path):
    written(run)
    with browser.opened(tmp_path / "profile") as opened:
        page = opened.page()
        page.go((run / "episodes.html").as_uri())
        listed = "[...document.querySelectorAll('summary')].map(one => one.firstChild.data.trim())"
        assert page.js(listed) == ["Find it", "Hi?"]

        def after(name, value):
            field = f"document.getElementById('filters').elements.{name}"
            change = (
                f"{field}.checked = {value}"
                if isinstance(value, str)
                else f"{field}.value = {json.dumps(value)}"
            )
            page.js(f"{change}; {field}.dispatchEvent(new Event('input', {{bubbles: true}}))")
            return page.js(listed)

        assert after("low", 0) == ["Hi?"]
        page.js("document.getElementById('filters').reset()")
        assert after("longest", 20) == ["Find it"]
        page.js("document.getElementById('filters').reset()")
        assert after("tools", "true") == ["Find it"]
        page.js("document.querySelector('details').open = true")
        page.until("document.querySelectorAll('.turn').length == 4")
        assert page.js("document.querySelector('.turn.assistant pre').textContent") == "search(<x>)"
        assert "reward -0.25" in page.js("document.querySelector('.turn.assistant b').textContent")
        assert opened.errors() == []
