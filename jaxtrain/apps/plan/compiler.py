"""Stages compiled in a process of their own, whose environment the compilers need and the caller does not get."""

import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence

from jaxtrain.apps.plan import topologies
from jaxtrain.apps.plan.request import PlanRequest
from jaxtrain.apps.plan.types import CompiledStage
from jaxtrain.config import ConfigError, Failure


def compile_all(requests: Sequence[PlanRequest]) -> Iterator[CompiledStage | ConfigError]:
    """The compiled stages, in order, each as soon as it is there; a plan that its devices cannot have as its error.

    One process compiles all, so they must be for chips of one compiler. Raises Failure, with the end of its messages,
    where it dies.
    """
    if not requests:
        return
    chips = [topologies.parse(request.chip) for request in requests]
    if len({topology.chip.platform for topology in chips}) > 1:
        raise ValueError("requests for chips of several compilers: call once for each")
    command = [sys.executable, "-P", "-m", "jaxtrain.apps.plan.worker"]
    with (
        tempfile.TemporaryFile() as messages,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=messages,
            env=topologies.environment(chips[0]),
        ) as process,
    ):  # fmt: skip
        try:
            for request in requests:
                try:
                    pickle.dump(request, process.stdin)
                    process.stdin.flush()
                    answer = pickle.load(process.stdout)
                except (EOFError, BrokenPipeError) as error:
                    raise Failure(_last_words(request, process.wait(), messages)) from error
                yield answer
        finally:
            if process.poll() is None:
                process.kill()  # it has nothing to save, and its compiler may be at work


def compile_one(request: PlanRequest) -> CompiledStage:
    """A compiled stage. Raises ConfigError for a plan that its devices cannot have."""
    (answer,) = compile_all([request])
    if isinstance(answer, ConfigError):
        raise answer
    return answer


def _last_words(request: PlanRequest, status: int, messages: tempfile._TemporaryFileWrapper) -> str:
    messages.seek(0)
    lines = messages.read().decode(errors="replace").splitlines()
    what = f"--stage={request.stage} --chip={request.chip}"
    return "\n".join([f"{what}: the process that compiles ended with status {status}:", *lines[-12:]])
