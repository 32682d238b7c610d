"""The folder that ./launch/run filter_data writes: kept/*.jsonl, rejected.jsonl, and at the end report.json."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.files import atomic, cache, paths

REPORT = "report.json"
# Half a surrogate pair, which no encoding has, becomes the escape that JSON has for it.
ESCAPED = {"encoding": "utf-8", "errors": "backslashreplace"}


def read_report(folder: Path) -> dict[str, Any] | None:
    """The content of report.json; None where the filtering is unfinished or there is none."""
    path = folder / REPORT
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def write_report(folder: Path, report: Mapping[str, Any], files: Sequence[Path]) -> None:
    """Writes report.json, with the list of files and a fingerprint of them and the sources."""
    listed = [
        {"file": str(path.relative_to(folder)), "digest": cache.digest_file(path, folder / "work")}
        for path in files
    ]
    sources = [one["fingerprint"] for one in report["sources"]]
    mark = cache.digest(report["version"], sources, [one["digest"] for one in listed])
    text = config.dumps({**report, "fingerprint": mark, "files": listed})
    with atomic.replacing(folder / REPORT) as file:
        file.write(text.encode(**ESCAPED))
    cache.sync(folder)


def files_of(name: str, flag: str, memo: Path) -> tuple[list[Path], str]:
    """(files of the accepted documents, fingerprint) of a filtering's folder.

    Raises ConfigError where it is not finished, was changed since, or accepted nothing.
    """
    what = f"--{flag}=filtered:{name}"
    folder = paths.local_copy(paths.parse(name, flag), what, memo.parent)
    report = read_report(folder)
    if report is None or "fingerprint" not in report:
        raise ConfigError(
            f"{what}: there is no finished filtering; run one: "
            f"./launch/run filter_data --data=... --out={name}"
        )
    files = []
    for one in report["files"]:
        path = folder / one["file"]
        if not path.is_file() or cache.digest_file(path, memo) != one["digest"]:
            raise ConfigError(f"{what}: {path} changed since it was written; filter again")
        files.append(path)
    if not files:
        raise ConfigError(f"{what}: the filtering accepted no document")
    return files, report["fingerprint"]
