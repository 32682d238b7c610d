"""Tests of the suite that mean something on a device, run there. A part of the GPU check."""

import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from jaxtrain.apps.benchmark.process import LeftOut, Report
from jaxtrain.apps.benchmark.sizes import CheckSizes

ROOT = Path(__file__).parents[3]
# Those that need several devices, a kernel of another platform, or the same bits from sums whose order a GPU changes,
# are not among them.
TESTS = (
    "tests/ops/test_mixed_precision.py",
    "tests/objectives/test_properties.py::test_gradients_in_bfloat16_are_those_of_f32[next_token]",
    "tests/objectives/test_properties.py::test_gradients_in_bfloat16_are_those_of_f32[dpo]",
    "tests/objectives/test_properties.py::test_gradients_in_bfloat16_are_those_of_f32[ppo]",
    "tests/objectives/test_properties.py::test_a_batch_is_the_sum_of_its_rows[next_token]",
    "tests/objectives/test_properties.py::test_a_batch_is_the_sum_of_its_rows[dpo]",
    "tests/objectives/test_properties.py::test_a_batch_is_the_sum_of_its_rows[ppo]",
    "tests/generate/test_sampler_logps.py::test_the_sampler_gives_the_trainer_s_log_probabilities[llama3.1-8b]",
    "tests/generate/test_sampler.py::test_lengths_and_log_probabilities_are_those_of_the_training_forward",
    "tests/generate/test_sampler.py::test_greedy_is_the_most_likely_token_of_the_full_forward_step_by_step",
    "tests/ops/test_logprobs.py",
)
OUTCOME = re.compile(r"^(tests/\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED)\b")
COLLECTED = re.compile(r"collected (\d+) items?")
MARGIN = 1.0  # seconds before the end of the part at which pytest is ended
# Products in f32 as the tests' tolerances have them: a GPU's default is TF32, with 10 bits.
ENVIRONMENT = {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}


def tests(sizes: CheckSizes, seconds: float, report: Report) -> list[str]:
    """How many tests passed, and which did not, as pytest says it line by line."""
    wanted = TESTS[:1] if sizes.tiny else TESTS
    if not (ROOT / "tests").is_dir():
        raise LeftOut(f"there are no tests in {ROOT}: run it from a checkout")
    # Warnings of other versions of a package are no failures here.
    flags = ["-v", "--tb=short", "-p", "no:cacheprovider", "-W", "default"]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    platform = os.environ.get("JAX_PLATFORMS", "cuda,cpu")
    env = {**os.environ, **ENVIRONMENT, "JAXTRAIN_TEST_PLATFORM": platform, "PYTHONPATH": path}
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", *flags, *wanted],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        timer = threading.Timer(seconds - MARGIN, process.kill)
        timer.start()
        lines = []
        for line in process.stdout:
            lines.append(line.rstrip())
            if OUTCOME.match(line):
                report("outcomes", outcomes(lines))
        timer.cancel()
    record = outcomes(lines)
    ended = record["passed"] + record["skipped"] + len(record["failed"])
    if not ended:
        raise LeftOut(f"pytest ran no test: {' | '.join(lines[-5:])[:400]}")
    report("outcomes", record)
    collected = next((int(match[1]) for line in lines if (match := COLLECTED.search(line))), ended)
    return [f"{collected - ended} of {collected} tests"] if collected > ended else []


def outcomes(lines: list[str]) -> dict[str, Any]:
    """{"passed": number, "skipped": number, "failed": [names], "good"} of the lines of `pytest -v`, and its report."""
    matches = [match for line in lines if (match := OUTCOME.match(line))]
    passed, skipped = (sum(match[2] == word for match in matches) for word in ("PASSED", "SKIPPED"))
    failed = [match[1] for match in matches if match[2] in ("FAILED", "ERROR")]
    start = next((i for i, line in enumerate(lines) if re.match(r"=+ FAILURES", line)), len(lines))
    record = {"passed": passed, "skipped": skipped, "failed": failed, "good": bool(passed) and not failed}
    return record | ({"failures": lines[start:]} if failed else {})
