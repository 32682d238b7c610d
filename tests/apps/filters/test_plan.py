"""The plan of a filter run: what resumes, what is refused."""

import pytest

from jaxtrain.config import ConfigError
from tests.apps.filters import filtering
from tests.data.corpus import prose


def test_the_same_command_shows_the_report_and_another_is_refused(tmp_path):
    source = prose(tmp_path / "a.jsonl", 30)
    first = filtering.run(source, tmp_path / "out")
    assert filtering.run(source, tmp_path / "out") == first
    with pytest.raises(ConfigError, match=r"(?s)--out=.*--spam: drop -> off.*Name a new folder"):
        filtering.run(source, tmp_path / "out", "--spam=off")
    prose(tmp_path / "a.jsonl", 31)
    with pytest.raises(ConfigError, match=r"(?s)the data"):
        filtering.run(source, tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(ConfigError, match="is not empty"):
        filtering.run(source, tmp_path / "mine")
