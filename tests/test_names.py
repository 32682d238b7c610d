"""Names are the field's words (policy, prompt, completion, KV cache, ...), and a class name stands once in the tree.

Lists of exceptions only shrink: an entry that is no longer needed fails its test.
"""

from collections import defaultdict
from collections.abc import Iterator

import pytest

from tests import source
from tests.source import Source, shrinking

# Names that say nothing of their subject, or say it in a language of our own.
MODULES = set(
    """told tell kept asked ask house desk booth begin began begun change course lesson lessons making
    drawing drawn speaker voice stored found made heard said born compared common util utils helpers
    misc""".split()
)
CLASSES = set(
    """House Desk Voice Booth Ballots Told Ask Asked Asking Heard Refused Left Kept Drawn Drawer Drawing
    Made Opening Speaker Given Reply Spent Inside Want Wanted Lesson Rewarding Origin Beside Joined Seen
    Slow Whole Begin Born Found Said Tops Turns""".split()
)
FUNCTIONS = set(
    """told tell kept keep ask asked asks said heard hear found made held born begin began begun
    starting while_there lesson spoken speaker voice drawer drawn shown opened mine lifted remember
    screened gathered fitted carried pinned""".split()
)

# Class name -> why it stands in several modules.
TWICE = {
    "Constitution": "a group of options of Tinytown's: the fingerprint of a data set hashes its repr",
    "Pretrain": "likewise, and the command of that name",
    "Sft": "likewise, and the command of that name",
}


@pytest.fixture(scope="module")
def tree() -> Source:
    return source.checkout()


def banned_modules(modules: Source) -> Iterator[str]:
    """Modules and packages with a banned name."""
    yield from (name for name in modules if MODULES & set(name.split(".")))


def banned_classes(modules: Source) -> Iterator[str]:
    """Public classes with a banned name."""
    for name, module in modules.items():
        found = (node.name for node in source.public_classes(module.tree))
        yield from (f"{name}.{each}" for each in found if each in CLASSES)


def banned_functions(modules: Source) -> Iterator[str]:
    """Public functions and methods with a banned name."""
    for name, module in modules.items():
        found = source.public_functions(module.tree)
        yield from (f"{name}.{each}" for each in found if each.rpartition(".")[2] in FUNCTIONS)


def classes_twice(modules: Source) -> set[str]:
    """Public class names that stand in more than one place."""
    places = defaultdict(list)
    for name, module in modules.items():
        for node in source.public_classes(module.tree):
            places[node.name].append(name)
    return {name for name, where in places.items() if len(where) > 1}


def test_modules_are_named_after_their_subject(tree):
    assert list(banned_modules(tree)) == []


def test_classes_have_the_names_of_the_field(tree):
    assert list(banned_classes(tree)) == []


def test_functions_have_the_names_of_the_field(tree):
    assert list(banned_functions(tree)) == []


def test_a_class_name_stands_once(tree):
    assert shrinking(classes_twice(tree), TWICE) == []


def test_banned_names_are_found(tmp_path):
    files = {
        "jaxtrain/rl/told.py": "",
        "jaxtrain/desk/x.py": "class Heard: ...\nclass Headers: ...\nclass _Told: ...",
        "jaxtrain/ops/x.py": "def told(): ...\ndef _kept(): ...\nclass A:\n    def asked(self): ...\n    asks = 1\n",
        "experiments/y.py": "async def while_there(): ...\nclass _B:\n    def said(self): ...\n",
    }
    modules = source.write(tmp_path, files)
    assert list(banned_modules(modules)) == ["jaxtrain.desk.x", "jaxtrain.rl.told"]
    assert list(banned_classes(modules)) == ["jaxtrain.desk.x.Heard"]
    assert sorted(banned_functions(modules)) == [
        "experiments.y.while_there",
        "jaxtrain.ops.x.A.asked",
        "jaxtrain.ops.x.told",
    ]


def test_a_class_name_that_stands_twice_is_found(tmp_path):
    files = {
        "jaxtrain/a.py": "class Loss: ...\nclass _Rows: ...\nclass Once: ...",
        "jaxtrain/b.py": "def f():\n    class Loss: ...\nclass _Rows: ...\nclass Outer:\n    class Inner: ...",
        "experiments/c.py": "class Inner: ...",
    }
    assert classes_twice(source.write(tmp_path, files)) == {"Loss", "Inner"}
