"""What a run remembers of the run that it starts from, and that it is still that run when it resumes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtrain.config import ConfigError
from jaxtrain.train import workdir


def require_same_parent(folder: Path, lineage: Mapping[str, Any]) -> None:
    """Raises ConfigError where the run in a folder began from a run that has since been trained anew at its path.

    More steps of the same run are no other run. Records of releases that did not say when are not compared.
    """
    if not (folder / workdir.CONFIG).exists():
        return
    before = workdir.read_run(folder, "--workdir").get("parent") or {}
    old, new = before.get("started"), lineage.get("started")
    if before.get("run") == lineage.get("run") and old and new and old != new:
        raise ConfigError(
            f"--workdir={folder}: it began from {lineage['run']} as trained on {old}; the run that is there now "
            f"began on {new}. Delete {folder} to start from the new one, or name another --workdir"
        )
