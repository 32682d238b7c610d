"""The file of a check's results: runs, and the newest measurement of each part. It is whole at any moment.

{"runs": [{"started", "command", "git", "host", "gpus", "versions"}],
 "parts": {NAME: {"run": index of its run, "status", "note", "seconds", "load", "results": {NAME: record}}}}
"""

import json
from pathlib import Path
from typing import Any

from jaxtrain.config import ConfigError
from jaxtrain.files import atomic

FORMAT = 1


def read(path: Path) -> dict[str, Any]:
    """The results of a file, empty where there is none. Raises ConfigError where it holds something else."""
    if not path.exists():
        return {"format": FORMAT, "runs": [], "parts": {}}
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--out={path}: it cannot be read as JSON ({error}); name another file") from error
    if not isinstance(results, dict) or results.get("format") != FORMAT:
        raise ConfigError(
            f"--out={path}: it holds something else than results of gpu_check; name another file"
        )
    return results


class ResultsFile:
    """Results that are written with every record."""

    def __init__(self, path: Path, run: dict[str, Any]):
        self.path, self.results = path, read(path)
        self.results["runs"].append(run)
        self._prune()

    def start(self, part: str) -> None:
        """Begins a part anew; what an earlier run has of it goes."""
        run = len(self.results["runs"]) - 1
        self.results["parts"][part] = {"run": run, "status": "running", "note": "", "results": {}}
        self._write()

    def leave_out(self, part: str, note: str) -> None:
        """Says of a part why it was left out, unless an earlier run measured it."""
        if not self.results["parts"].get(part, {}).get("results"):
            self.start(part)
            self.end(part, status="left out", note=note)

    def add(self, part: str, name: str, record: Any) -> None:
        """One record of a part."""
        self.results["parts"][part]["results"][name] = record
        self._write()

    def end(self, part: str, **values: Any) -> None:
        """Status, note, seconds and load of a part."""
        self.results["parts"][part] |= values
        self._prune()
        self._write()

    def _prune(self) -> None:
        """Takes out the runs of which no part is left, the last one excepted."""
        runs, parts = self.results["runs"], self.results["parts"]
        used = sorted({part["run"] for part in parts.values()} | {len(runs) - 1})
        self.results["runs"] = [runs[i] for i in used]
        for part in parts.values():
            part["run"] = used.index(part["run"])

    def _write(self) -> None:
        atomic.write_text(self.path, json.dumps(self.results, indent=1, ensure_ascii=False) + "\n")
