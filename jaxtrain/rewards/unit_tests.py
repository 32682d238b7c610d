"""Rewards of programs that pass their record's unit tests, each in a sandbox: the records of MBPP and HumanEval.

MBPP has a list of tests, with lines that run before them, and a reference solution, whose imports the tests may use.
HumanEval has a prompt that the completion goes on with or repeats, a function `check`, and the name of the function.
"""

import ast
import functools
import re
import sys
from collections.abc import Mapping, Sequence, Set
from typing import Any

from jaxtrain.rewards.sandbox import runner
from jaxtrain.rewards.sandbox.confine import Limits
from jaxtrain.rewards.sandbox.runner import Job, SandboxResult
from jaxtrain.rewards.verifier import FAILED, TIMED_OUT, Options, Verification, Verifier

NO_CODE, NO_TESTS, CRASHED, UNSUPPORTED = "no_code", "no_tests", "crashed", "unsupported"
SCORES = ("all", "share")
_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*\n", re.MULTILINE)
_PYTHON = ("", "python", "py", "python3")
_REPORTED: set[str] = set()


def code_of(text: str) -> str:
    """The program in a completion: its last block between ``` of Python or of no language, else all of it.

    What stands before </think> is none. A last block that does not close ends with the text.
    """
    text = text.rpartition("</think>")[2]
    marks = list(_FENCE.finditer(text if text.endswith("\n") else text + "\n"))
    blocks = []
    while marks:
        start = marks.pop(0)
        closing = marks.pop(0) if marks else None
        if start[1].lower() in _PYTHON:
            blocks.append(text[start.end() : closing.start() if closing else len(text)])
    return blocks[-1] if blocks else text


def job_of(text: str, fields: Mapping[str, Any]) -> Job | str:
    """The program of a completion with the tests of its record, by `REWARD`'s options; or why there are none.

    A record has `tests`, a list, or `test`, a program that defines check, with `entry_point`.
    """
    tests, test, entry = fields["tests"], fields["test"], fields["entry_point"]
    if isinstance(tests, list | tuple) and tests and all(isinstance(one, str) for one in tests):
        sources, setup, prompt = tuple(tests), [], ""
        reference = fields["reference"]
        imports, names = _imports_and_names(reference) if isinstance(reference, str) else ([], [])
        entries = [entry] if isinstance(entry, str) and entry else names
        setup += imports
    elif isinstance(test, str) and test.strip() and isinstance(entry, str) and entry.isidentifier():
        sources, entries = (f"{test}\n\ncheck({entry})\n",), [entry]
        prompt = fields["prompt"] if isinstance(fields["prompt"], str) else ""
        setup = [prompt] if _is_python(prompt) else []
    else:
        return "the record has no tests: neither a list of them, nor a check and an entry_point"
    for option in ("imports", "setup"):
        lines = fields[option]
        setup += [lines] if isinstance(lines, str) else [one for one in lines or () if isinstance(one, str)]
    for source in (*sources, *setup):
        if not _is_python(source):
            return f"a test of the record is not Python: {source[:80]!r}"
    return Job(code_of(text), sources, tuple(one for one in setup if one.strip()), tuple(entries), prompt)


@functools.lru_cache(maxsize=4096)
def _is_python(source: str) -> bool:
    try:
        ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _imports_and_names(reference: str) -> tuple[list[str], list[str]]:
    """(the imports at the top of a reference solution, the names of its functions and classes)."""
    if not _is_python(reference):
        return [], []
    body = ast.parse(reference).body
    imports = [ast.unparse(node) for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    return imports, [node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)]


def _verified(
    completions: Sequence[str], columns: Mapping[str, list], options: Options
) -> list[Verification]:
    """1 for a program that passes all of its tests, or the share of them; None for a record without tests."""
    verified: dict[int, Verification] = {}
    jobs: dict[int, Job] = {}
    for row, text in enumerate(completions):
        job = job_of(text, {option: column[row] for option, column in columns.items()})
        if isinstance(job, str):
            verified[row] = Verification(None, NO_TESTS, job)
        elif not job.code.strip():
            verified[row] = Verification(0.0, NO_CODE)
        elif len(job.code) > runner.LONGEST:
            verified[row] = Verification(0.0, FAILED, f"a program of {len(job.code):,} characters")
        else:
            jobs[row] = job
    limits = Limits(seconds=options["seconds"], memory=options["memory"])
    results = runner.run_all(list(jobs.values()), limits)
    _report(runner.not_set(results))
    for row, result in zip(jobs, results, strict=True):
        verified[row] = _verification(result, options["score"])
    return [verified[row] for row in range(len(completions))]


def _verification(result: SandboxResult, score: str) -> Verification:
    share = result.passed / result.total
    reward = share if score == "share" else float(share == 1)
    if result.fault:
        return Verification(0.0, result.fault, result.detail)
    if result.unsupported:
        return Verification(reward, UNSUPPORTED, result.unsupported)
    return Verification(reward, CRASHED if result.crashed else "")


def _report(lines: Sequence[str]) -> None:
    """Says once what this machine's sandbox could not set."""
    if new := [line for line in lines if line not in _REPORTED]:
        _REPORTED.update(new)
        print("--reward=code: the sandbox could not set " + "; ".join(new), file=sys.stderr)


def _refuse(options: Options) -> str:
    score = options["score"]
    return "" if score in SCORES else f"score={score}: write one of {', '.join(SCORES)}"


def _lacks(options: Options, names: Set[str]) -> str:
    """Which columns of tests the records do not have."""
    if options["tests"] in names or {options["test"], options["entry_point"]} <= names:
        return ""
    return (
        f"{options['tests']}, or {options['test']} and {options['entry_point']} (write code?tests=COLUMN or "
        "code?test=COLUMN&entry_point=COLUMN for others)"
    )


REWARD = Verifier(
    check=_verified,
    options={
        "tests": "test_list",
        "test": "test",
        "entry_point": "entry_point",
        "prompt": "prompt",
        "reference": "code",
        "setup": "test_setup_code",
        "imports": "test_imports",
        "score": "all",
        "seconds": 10.0,
        "memory": 1024,
    },
    optional=("tests", "test", "entry_point", "prompt", "reference", "setup", "imports"),
    faults=(TIMED_OUT, FAILED, CRASHED, UNSUPPORTED, NO_CODE, NO_TESTS),
    quiet=(NO_CODE, CRASHED),
    refuse=_refuse,
    lacks=_lacks,
)
