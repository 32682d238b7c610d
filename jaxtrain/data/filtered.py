"""The folder that ./launch/run filter_data writes: kept/*.jsonl, rejected.jsonl, and at the end report.json."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.files import atomic, cache, checksums, paths

REPORT, KEPT, PAGE = "report.json", "kept", "report.html"
BESIDE = ("rejected.jsonl",)  # what a report lists beside the kept files
_LARGE = 1 << 30  # bytes of files whose contents are not read when the command is given again
# Half a surrogate pair, which no encoding has, becomes the escape that JSON has for it.
ESCAPED = {"encoding": "utf-8", "errors": "backslashreplace"}


def read_report(folder: Path) -> dict[str, Any] | None:
    """The content of report.json; None where the filtering is unfinished or there is none.

    Raises ConfigError where it is damaged.
    """
    path = folder / REPORT
    if not path.is_file():
        return None
    try:
        report = atomic.read_sealed(path)
        if not isinstance(report, dict):
            raise ValueError("it is not a report")
    except ValueError as error:
        raise ConfigError(
            f"{path} is damaged ({error}): restore it from a copy, or filter again in a new folder"
        ) from error
    return report


def write_report(folder: Path, report: Mapping[str, Any], files: Sequence[Path]) -> None:
    """Writes report.json, with the list of files and a fingerprint of them and the sources."""
    listed, beside = (
        [
            {
                "file": str(path.relative_to(folder)),
                "bytes": path.stat().st_size,
                "digest": cache.digest_file(path, folder / "work"),
            }
            for path in paths
        ]
        for paths in (files, [folder / name for name in BESIDE])
    )
    sources = [one["fingerprint"] for one in report["sources"]]
    mark = cache.digest(report["version"], sources, [one["digest"] for one in listed])
    whole = {**report, "fingerprint": mark, "files": listed, "beside": beside}
    with atomic.replacing(folder / REPORT) as file:
        file.write(config.dumps(checksums.sealed(whole)).encode(**ESCAPED))
    cache.sync(folder)


def damage(folder: Path, report: Mapping[str, Any], memo: Path, names: Sequence[str] = ()) -> Iterator[str]:
    """What differs from a report: of the files of these names, by default of all, one line each.

    Contents are compared unless all are large; the sizes always. A report of an earlier release has neither sizes nor
    the files beside.
    """
    for one in _listed(report):
        path = folder / one["file"]
        if not path.is_file():
            yield f"{path} is missing"
        elif path.stat().st_size != one.get("bytes", path.stat().st_size):
            yield f"{path} has {path.stat().st_size:,} bytes, {one['bytes']:,} were written"
        elif not is_large(report) and cache.digest_file(path, memo) != one["digest"]:
            yield f"{path} differs from what was written"


def is_large(report: Mapping[str, Any]) -> bool:
    """Whether `damage` compares the sizes alone."""
    return sum(one.get("bytes", 0) for one in _listed(report)) > _LARGE


def _listed(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [*report["files"], *report.get("beside", ())]


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
