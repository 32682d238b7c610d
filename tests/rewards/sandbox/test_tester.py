"""The process of the tests, against a program in a thread: what passes, what does not, and whose names are whose."""

import os
import threading

import pytest

from jaxtrain.rewards.sandbox import candidate, tester


def outcome(code, *tests, setup=(), entry_points=()):
    requests, replies = os.pipe(), os.pipe()
    sources = {"code": code, "prompt": "", "entry_point": ""}
    threading.Thread(target=candidate.serve, args=(sources, requests[0], replies[1]), daemon=True).start()
    try:
        return tester.run(tests, setup, entry_points, tester.Program(requests[1], replies[0]))
    finally:
        for stream in (requests[1], replies[0]):
            os.close(stream)


PASS = {
    "a value": ("def f(x): return x + 1", "assert f(1) == 2"),
    "keywords": ("def f(x, y): return x - y", "assert f(y=1, x=3) == 2"),
    "a list that it changes": ("def f(x): x.sort(); x.append(9)", "a = [3, 1]\nf(a)\nassert a == [1, 3, 9]"),
    "a dictionary that it changes": (
        "def f(x): x['b'] = x.pop('a')",
        "a = {'a': 1}\nf(a)\nassert a == {'b': 1}",
    ),
    "an error": (
        "def f(x): return 1 / x",
        "try:\n    f(0)\nexcept ZeroDivisionError: pass\nelse: assert False",
    ),
    "its own error of a kind": (
        "class E(ValueError): pass\ndef f(x): raise E('no')",
        "try:\n    f(0)\nexcept ValueError as e: assert 'no' in str(e)\nelse: assert False",
    ),
    "a generator": ("def f(n):\n    yield from range(n)", "assert list(f(3)) == [0, 1, 2]"),
    "next": ("def f(): return iter([4])", "assert next(f()) == 4"),
    "objects": (
        "class P:\n    def __init__(self, a): self.a = a\n    def up(self): self.a += 1; return self\n"
        "def f(ps): return sum(p.a for p in ps)",
        "ps = [P(1), P(2)]\nassert f(ps) == 3\nassert ps[0].up().a == 2\nps[1].a = 9\nassert f(ps) == 11",
    ),
    "the same object": ("x = object()\ndef f(): return x", "assert f() == f() and f() in {f()}"),
    "an object with items": (
        "class P:\n    def __len__(self): return 2\n    def __getitem__(self, i): return i * 2\n"
        "    def __str__(self): return 'p'",
        "assert len(P()) == 2 and P()[3] == 6 and str(P()) == 'p' and bool(P())",
    ),
    "Python's modules": ("def f(): return 0.1 + 0.2", "assert math.isclose(f(), 0.3)"),
    "Python's types": ("def f(): return [1]", "assert isinstance(f(), list) and type(f()) is list"),
    "data of the program": ("LIMIT = 5\ndef f(): return 5", "assert f() == LIMIT"),
    "a type as argument": ("def f(t): return t('5')", "assert f(int) == 5"),
    "a float": ("def f(): return 6.0", "assert f() == 6"),
    "a tuple is no list": ("def f(): return (1,)", "assert f() != [1] and f() == (1,)"),
    "numbers of any size": ("def f(): return 7 ** 20000", "assert f() == 7 ** 20000"),
    "what a test defines": ("def f(): return 1", "def g(x): return x\nassert g(f()) == 1"),
}
FAIL = {
    "a wrong value": ("def f(x): return x", "assert f(1) == 2"),
    "no function": ("", "assert f(1) == 2"),
    "an error": ("def f(x): return 1 / 0", "assert f(1) == 2"),
    "an __eq__ of its own": (
        "class A:\n    def __eq__(self, o): return True\ndef f(): return A()",
        "assert f() == 2",
    ),
    "an __eq__ in a list": (
        "class A(int):\n    __eq__ = lambda s, o: True\ndef f(): return [A(1)]",
        "assert f() == [2]",
    ),
    "a set of its own": ("set = lambda x: 0\ndef f(): return (1,)", "assert set(f()) == set([2])"),
    "a len of its own": ("len = lambda x: 3\ndef f(): return [1]", "assert len(f()) == 3"),
    "a math of its own": (
        "class math:\n    isclose = staticmethod(lambda *a: True)\ndef f(): return 1",
        "assert math.isclose(f(), 2)",
    ),
    "an exit": ("def f(): raise SystemExit(0)", "assert f() == 2"),
    "an exit of the test": ("def f(): return 1", "f()\nraise SystemExit(0)"),
}  # fmt: skip


@pytest.mark.parametrize("name", PASS)
def test_right_programs_pass(name):
    code, test = PASS[name]
    result = outcome(code, test)
    assert (result["passed"], result["total"], result["detail"]) == (1, 1, "")


@pytest.mark.parametrize("name", FAIL)
def test_wrong_programs_do_not(name):
    code, test = FAIL[name]
    result = outcome(code, test)
    assert (result["passed"], result["total"], result["crashed"]) == (0, 1, False) and result["detail"]


def test_each_test_counts():
    result = outcome("def f(x): return x", "assert f(1) == 1", "assert f(1) == 2", "assert f(3) == 3")
    assert (result["passed"], result["total"], result["detail"]) == (2, 3, "AssertionError: ")


def test_helpers_of_the_record_are_not_the_programs():
    cheat = "def poly(x): return 0\ndef f(): return 5"
    honest = ["import math\ndef poly(x): return math.floor(x) - 3\ndef f(): pass"]
    assert outcome(cheat, "assert poly(f()) == 0", setup=honest, entry_points=["f"])["passed"] == 0
    assert (
        outcome("def f(): return 3", "assert poly(f()) == 0", setup=honest, entry_points=["f"])["passed"] == 1
    )


def test_an_entry_point_may_have_a_name_of_python():
    code = "def sum(a, b): return a * b"
    assert outcome(code, "assert sum(2, 5) == 10", entry_points=["sum"])["passed"] == 1
    assert outcome(code, "assert sum(2, 5) == 10")["passed"] == 0


def test_what_cannot_be_sent_is_reported():
    result = outcome("def f(g): return g(1)", "assert f(lambda x: x) == 1")
    assert (
        result["passed"] == 0
        and result["unsupported"] == "a test passes 'function' objects, which cannot be sent"
    )
