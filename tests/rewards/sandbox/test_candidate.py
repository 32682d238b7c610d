"""The process of a program: which sources it runs, and what it answers."""

import os
import threading

import pytest

from jaxtrain.rewards.sandbox import candidate, wire

PROMPT = 'def helper(x):\n    return x\n\n\ndef f(x):\n    """Doc."""\n'


@pytest.mark.parametrize(
    "code, wanted",
    [
        ("    return helper(x) + 1\n", [PROMPT + "    return helper(x) + 1\n"]),
        ("def f(x):\n    return x\n", [PROMPT, "def f(x):\n    return x\n"]),
        ("f = lambda x: x\n", [PROMPT, "f = lambda x: x\n"]),
        ("\n    return 1\n\ndef g():\n    pass\n", [PROMPT + "\n    return 1\n\ndef g():\n    pass\n"]),
        ("def g(): pass\n", [PROMPT + "def g(): pass\n"]),
    ],
)
def test_a_completion_repeats_the_function_or_goes_on_with_it(code, wanted):
    assert candidate.program(code, PROMPT, "f") == wanted
    assert candidate.program(code, "", "f") == [code]


@pytest.fixture
def served():
    """Starts a program in a thread; a function that sends it requests."""
    streams = []

    def start(code):
        requests, replies = os.pipe(), os.pipe()
        streams.extend([requests[1]])
        sources = {"code": code, "prompt": "", "entry_point": ""}
        threading.Thread(target=candidate.serve, args=(sources, requests[0], replies[1]), daemon=True).start()
        first = wire.receive(replies[0])

        def ask(**request):
            wire.send(requests[1], request)
            return wire.receive(replies[0])

        return first, ask

    yield start
    for stream in streams:
        os.close(stream)


def test_requests_on_functions_and_objects(served):
    code = (
        "class P:\n    def __init__(self, a): self.a = a\n    def __len__(self): return 3\n"
        "def f(x, y=1):\n    x.append(y)\n    return len(x)\nn = 5\n"
    )
    first, ask = served(code)
    assert set(first["names"]) == {"P", "f", "n"}
    assert ask(do="name", name="n") == {"value": 5}
    f = ask(do="name", name="f")["value"]["h"]
    assert ask(do="call", on=f, arguments=[[7]], keywords={"y": 8}) == {"value": 2, "arguments": [[7, 8]]}
    made = ask(do="name", name="P")["value"]["h"]
    p = ask(do="call", on=made, arguments=[4])["value"]["h"]
    assert ask(do="get", on=p, name="a") == {"value": 4}
    assert ask(do="set", on=p, name="a", arguments=[6]) == {"value": None}
    assert ask(do="get", on=p, name="a") == {"value": 6} and ask(do="len", on=p) == {"value": 3}
    assert ask(do="bool", on=p) == {"value": True}
    assert ask(do="get", on=p, name="b")["raised"] == "AttributeError"
    assert ask(do="name", name="nothing")["raised"] == "KeyError"
    assert ask(do="jump", on=p)["raised"] == "ValueError"


@pytest.mark.parametrize(
    "code, wanted",
    [
        ("raise SystemExit(0)", "SystemExit"),
        ("class E(ValueError): pass\nraise E('x')", "ValueError"),
        ("def f(:", "SyntaxError"),
        ("import nowhere_at_all", "ModuleNotFoundError"),
    ],
)
def test_a_program_that_does_not_run_says_what_it_raised(served, code, wanted):
    assert served(code)[0]["raised"] == wanted


def test_it_is_not_run_as_a_script(served):
    first, ask = served("ran = __name__ == '__main__'")
    assert ask(do="name", name="ran") == {"value": False} and "names" in first
