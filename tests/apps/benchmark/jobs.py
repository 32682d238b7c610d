"""Work for a part's process that needs nothing heavy."""

import os
import sys
import time

from jaxtrain.apps.benchmark.process import LeftOut
from jaxtrain.config import ConfigError, Failure


def work(sizes, how, seconds, report):
    report("seconds", {"given": seconds, "env": os.environ.get("JAXTRAIN_JOB", ""), "tiny": sizes.tiny})
    if how == "left out":
        raise LeftOut("no torch")
    if how == "config":
        raise ConfigError("--x: wrong")
    if how == "failure":
        raise Failure("first\nsecond")
    if how == "exit":
        print("a library's last words", file=sys.stderr, flush=True)
        os._exit(7)
    if how == "sleep":
        time.sleep(60)
    return ["the rest"] if how == "shortened" else []
