"""Patterns: what glob finds, and folders that links put into themselves."""

import glob
import os

import pytest

from jaxtrain.config import ConfigError
from jaxtrain.files import globs


@pytest.fixture
def tree(tmp_path, monkeypatch):
    names = (
        "a.jsonl",
        "d/b.jsonl",
        "d/e/c.jsonl",
        "d/e/c.txt",
        "d/.hidden/x.jsonl",
        "o[1]/e/f.jsonl",
        "**x/g.jsonl",
    )
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "pattern",
    ["*.jsonl", "**/*.jsonl", "**", "d/**", "d/**/*.jsonl", "**/e/*.jsonl", "*/**/c.*", "o*/**/f.jsonl", 
     "**/**/e/**/c.*", "d/**/", "none/**/*.jsonl", "d**/b.jsonl", "*[*]x/*"],
)  # fmt: skip
def test_what_glob_finds(tree, pattern):
    for one in (pattern, f"{tree}/{pattern}"):
        found = {os.path.normpath(path) for path in globs.matches(one)}
        assert found == {os.path.normpath(path) for path in glob.glob(one, recursive=True)}


def test_a_link_to_a_folder_is_followed_and_one_into_itself_is_not(tree):
    os.symlink(".", tree / "d/l1")
    os.symlink("..", tree / "d/e/l2")
    os.symlink("../d", tree / "o[1]/l3")
    os.symlink("l4", tree / "d/l4")
    assert globs.matches("d/**/*.jsonl") == ["d/b.jsonl", "d/e/c.jsonl"]
    assert globs.matches("o*/**/*.jsonl") == ["o[1]/e/f.jsonl", "o[1]/l3/b.jsonl", "o[1]/l3/e/c.jsonl"]


def test_a_folder_that_cannot_be_looked_into_is_named(tree, monkeypatch):
    listed = os.listdir

    def listdir(path):
        if path == "d/e/":
            raise PermissionError(13, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr(os, "listdir", listdir)
    with pytest.raises(ConfigError, match=r"^d/e/: cannot be looked into \(Permission denied\)$"):
        globs.matches("**/*.jsonl")
