"""Scored completions as JSON lines and as a table."""

import json

import numpy as np
import pytest

from jaxtrain.rl import completion_table
from tests.rl.test_scoring import scored, settings


def test_completions_are_written_with_score_kl_and_gold():
    batch, _ = scored(settings(), gold=lambda question, text: float(len(question) - len(text)))
    metrics = {"objective/scores": batch.scores, "objective/kl": np.array([0.5, 0.25, 0]), **batch.stats}
    lines = [json.loads(line) for line in completion_table.rollout_lines(batch, metrics).splitlines()]
    assert lines[2] == {
        "prompt": "Go", "completion": "So be it", "ended": False, "score": 0.2, "kl": 0.0, "gold": -6.0, "tokens": 8,
    }  # fmt: skip
    assert [row["gold"] for row in lines] == [-5, 3, -6] and len(lines) == 3
    table = completion_table._table(lines, "00000004.jsonl")
    assert "rollouts/00000004.jsonl" in table and "So be it …" in table and "-6.00" in table
    assert max(map(len, table.splitlines())) <= 80


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"prompt":', b'"prompt";'),
        (b'"completion"', b'"completiom"'),
        (b"Go", b"\xff\xfe"),
        (b'"score": 0', b'"score": ""'),
    ],
)
def test_a_damaged_file_is_named_in_place_of_its_table(tmp_path, old, new):
    batch, _ = scored(settings())
    metrics = {"objective/scores": batch.scores, "objective/kl": np.array([0.5, 0.25, 0]), **batch.stats}
    whole, file = completion_table.rollout_lines(batch, metrics).encode(), tmp_path / "00000004.jsonl"
    file.write_bytes(whole)
    assert "damaged" not in completion_table._shown(file, 3)
    assert old in whole
    file.write_bytes(whole.replace(old, new))
    assert f"{file} is damaged" in completion_table._shown(file, 3)


def test_what_is_not_scored_is_null_and_a_dash():
    batch, _ = scored(settings(), scores=(0.7, np.nan, 0.2))
    batch = batch._replace(
        stats={**batch.stats, "rewards/ids/mean": np.array([9, np.nan, 8])},
        extra={"first": [89, {1}, None]},
    )
    lines = completion_table.rollout_lines(batch, {"objective/scores": np.array([0.7, np.nan, 0.2])})
    rows = [json.loads(line) for line in lines.splitlines()]
    assert rows[1]["score"] is None and rows[1]["rewards"] == {"ids": None}
    assert rows[0]["rewards"] == {"ids": 9.0} and [row["extra"]["first"] for row in rows] == [89, "{1}", None]
    assert "–" in completion_table._table(rows, "x.jsonl")


def test_what_an_environment_reports_stands_beside_the_numbers():
    batch, _ = scored(settings())
    stats = {
        **batch.stats,
        "environment/turns": np.array([2, 1, 3]),
        "environment/tool_errors": np.array([1, np.nan, 0]),
    }
    lines = completion_table.rollout_lines(batch._replace(stats=stats), {"objective/scores": batch.scores})
    rows = [json.loads(line) for line in lines.splitlines()]
    assert [row["environment"] for row in rows] == [
        {"turns": 2, "tool_errors": 1},
        {"turns": 1},
        {"turns": 3, "tool_errors": 0},
    ]
