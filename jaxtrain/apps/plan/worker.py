"""A process that compiles: requests come by standard input, a result for each goes to standard output, in pickle.

It has the environment of its topology, so that libtpu or the CUDA plug-in find what they look for, and it dies with
them. apps/plan/compiler.py starts it.
"""

import os
import pickle
import sys
from typing import BinaryIO

from jaxtrain.config import ConfigError


def main() -> None:
    """Answers requests until there are none."""
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # what a library prints belongs among the messages
        serve(sys.stdin.buffer, answers)


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Writes a CompiledStage, or the ConfigError in its place, for each PlanRequest."""
    from jaxtrain.apps.plan import programs

    while True:
        try:
            request = pickle.load(requests)
        except EOFError:
            return
        try:
            answer = programs.compile_stage(request)
        except ConfigError as error:
            answer = error
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    main()
