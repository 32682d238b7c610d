"""Which room may import which, read from the source, imports inside functions included; and experiments are commands.

A list of exceptions only shrinks: an entry that is no longer needed fails its test. Each rule has a test that it fails.
"""

import ast
import re
import sys
from collections.abc import Iterator
from fnmatch import fnmatch

import pytest

from tests import source
from tests.source import ROOT, Source, shrinking

# Room -> the rooms that it may import besides itself.
LOW = {"types", "config", "signals", "full_disk", "suggestions", "files", "ops"}
MATH = LOW | {"objectives", "models", "data", "train", "worlds", "measures"}
STAGES = MATH | {"generate", "tasks", "stages"}
CORE = STAGES | {"flags", "rewards", "rl", "inference", "distillation"}
ROOMS: dict[str, set[str]] = {
    "": {"language_model"},
    "types": set(),
    "config_fields": {"suggestions"},
    "config": {"config_fields"},
    "signals": set(),
    "full_disk": set(),
    "suggestions": set(),
    "flag_errors": {"suggestions"},
    "flag_help": {"config", "suggestions", "flag_errors"},
    "shell_completion": {"config"},
    "flags": {"config", "signals", "full_disk", "flag_errors", "flag_help"},
    "files": {"types", "config", "signals", "flags"},
    "ops": {"types"},
    "objectives": {"types", "ops"},
    "models": LOW,
    "worlds": {"files", "config"},
    "data": {"files", "config", "worlds", "full_disk"},
    "measures": {"files", "config", "worlds"},
    "tasks": {"config"},
    "train": LOW,
    "generate": LOW | {"objectives", "models", "data", "train"},
    "stages": STAGES - {"stages"},
    "rewards": STAGES,
    "rl": STAGES | {"rewards"},
    "inference": STAGES | {"rewards"},
    "distillation": STAGES | {"rewards", "rl", "inference"},
    # The outer ring: the core imports no application, and no application another one.
    "apps": set(),
    "apps.benchmark": CORE,
    "apps.filters": CORE,
    "apps.serve": CORE,
    "apps.annotation": CORE,
    "apps.constitutional": CORE,
    "apps.synthesis": CORE,
    "apps.evals": CORE,
    "apps.lifecycle": CORE,
    "apps.papers": CORE,
    "apps.plan": CORE,
    "apps.soak": CORE,
    "apps.sweep": CORE,
    # What `from jaxtrain import load` gives; imported by nothing else.
    "language_model": CORE | {"apps.evals", "apps.serve"},
}
BETWEEN_APPS = {"apps.annotation": "jaxtrain.apps.serve.http"}  # the one module of another application

# Modules outside of worlds/ that may import a world; the others use the protocol of jaxtrain/worlds/__init__.py.
WORLD_TODAY = {
    "experiments.papers.dedup",
    "experiments.papers.filtering",
    "experiments.papers.recipes",
    "experiments.papers.review_models",
    "jaxtrain.data.source_spec",
    "jaxtrain.data.sources",
}

JAX = {"jax", "jaxlib", "flax", "optax", "orbax"}
# And models/zoo.py: a wrong flag fails before jax is loaded.
WITHOUT_JAX = {
    "config",
    "config_fields",
    "signals",
    "full_disk",
    "suggestions",
    "flag_errors",
    "flag_help",
    "shell_completion",
    "flags",
    "files",
    "data",
    "worlds",
    "tasks",
}
ONLY_IN = {  # package -> modules or rooms that may import it
    "orbax": {"jaxtrain.train.checkpoint"},
    "tensorflow_datasets": {"data", "worlds"},
    "grain": {"data", "worlds"},
}
# Named in train/parallel.py alone.
PARALLEL = {"device_put", "pmap", "shard_map", "Mesh", "NamedSharding", "PartitionSpec"}

# Modules of experiments/ that are no commands.
LIBRARY = {
    "experiments.constitutional_pipeline", "experiments.papers.recipes",
    "experiments.papers.review_models", "experiments.papers.review_preferences", "experiments.papers.reward_proxies",
}  # fmt: skip
# Experiments that run or compile other experiments; constitutional is the command of constitutional_pipeline.
COMPOSED = (
    "experiments.constitutional_pipeline", "experiments.bench", "experiments.papers.*", "experiments.plan",
    "experiments.sweep",
)  # fmt: skip
COMMAND_OF = {"experiments.constitutional": "experiments.constitutional_pipeline"}

# Flag groups outside of a config.py:
FILTER_STEPS = "jaxtrain.apps.filters."  # a step of the filter is its own group: a new one is one file


@pytest.fixture(scope="module")
def tree() -> Source:
    return source.checkout()


def circle(edges: dict[str, set[str]]) -> list[str]:
    """An import circle as a path that ends where it begins; empty: there is none."""
    left = dict(edges)
    while done := [name for name in left if not left[name] & left.keys()]:
        for name in done:
            del left[name]
    path, here = [], min(left, default="")
    while here and here not in path:
        path.append(here)
        here = min(left[here] & left.keys())
    return [*path[path.index(here) :], here] if here else []


def rooms_broken(modules: Source) -> Iterator[str]:
    """Imports that the table of rooms does not allow."""
    for name, imported in source.edges(modules).items():
        here = modules[name].room
        if here == "experiments":
            continue
        if here not in ROOMS:
            yield f"{name} is in no room of the table"
        may = {here} | ROOMS.get(here, set())
        for other in sorted(imported):
            if source.room(other) not in may and BETWEEN_APPS.get(here) != other:
                yield f"{name} imports {other}"


def imports_a_world(modules: Source) -> set[str]:
    """Modules outside of worlds/ that import a package of worlds/."""
    worlds = {name for name in modules if re.fullmatch(r"jaxtrain\.worlds\.\w+", name)}
    worlds = {name for name in worlds if any(other.startswith(f"{name}.") for other in modules)}
    return {
        name
        for name, imported in source.edges(modules).items()
        if modules[name].room != "worlds"
        and any(other == world or other.startswith(f"{world}.") for other in imported for world in worlds)
    }


def third_party_broken(modules: Source) -> Iterator[str]:
    """Imports of packages where they do not belong."""
    ours = {*source.PACKAGES, *sys.stdlib_module_names}
    for name, module in modules.items():
        tops = {each.split(".")[0] for each in module.imports} - ours
        if module.room in WITHOUT_JAX or name == "jaxtrain.models.zoo":
            yield from (f"{name} imports {top}, and is without jax" for top in sorted(tops & JAX))
        if module.room == "measures":
            yield from (
                f"{name} imports {top}, and measures have NumPy alone" for top in sorted(tops - {"numpy"})
            )
        for top in sorted(tops & ONLY_IN.keys()):
            if not {name, module.room} & ONLY_IN[top]:
                yield f"{name} imports {top}, which belongs to {', '.join(sorted(ONLY_IN[top]))}"


def parallel_broken(modules: Source) -> Iterator[str]:
    """Modules that name a runtime beside train/parallel.py."""
    for name, module in modules.items():
        if name != "jaxtrain.train.parallel":
            yield from (f"{name} names {word}" for word in sorted(PARALLEL & set(source.names(module.tree))))


def is_command(tree: ast.Module) -> bool:
    """Whether a module ends with `if __name__ == "__main__": flags.launch(...)`."""
    return any(
        isinstance(node, ast.If)
        and ast.unparse(node.test) == "__name__ == '__main__'"
        and source.calls(node, "flags.launch")
        for node in tree.body
    )


def experiments_broken(modules: Source) -> Iterator[str]:
    """Experiments that are no commands, whose main is too long, or that import other experiments."""
    edges, packages = source.edges(modules), {name.rpartition(".")[0] for name in modules}
    for name, module in modules.items():
        if module.room != "experiments":
            continue
        if name in packages:
            if module.lines:
                yield f"{name} is a package, and has code"
            continue
        if is_command(module.tree) == (name in LIBRARY):
            yield f"{name} is {'in the list of those that are no commands' if name in LIBRARY else 'no command'}"
        if name not in LIBRARY and "main" not in dict(source.functions(module.tree)):
            yield f"{name} has no main"
        others = {other for other in edges[name] if source.room(other) == "experiments"} - {
            COMMAND_OF.get(name)
        }
        if others and not any(fnmatch(name, pattern) for pattern in COMPOSED):
            yield f"{name} imports {', '.join(sorted(others))}"
    yield from (f"{name} is in a list, and not there" for name in sorted(LIBRARY - modules.keys()))


def groups_elsewhere(modules: Source) -> Iterator[str]:
    """Flag groups of the library that are not in a config.py."""
    classes = [
        (name, node) for name, module in modules.items() for node in source.public_classes(module.tree)
    ]
    groups = {"Group"}
    while more := {node.name for _, node in classes if source.bases(node) & groups} - groups:
        groups |= more
    for name, node in classes:
        elsewhere = name.startswith("jaxtrain.") and name.rpartition(".")[2] != "config"
        if elsewhere and not name.startswith(FILTER_STEPS) and source.bases(node) & groups:
            yield f"{name}.{node.name}"


def test_no_import_circle(tree):
    assert circle(source.edges(tree)) == []


def test_rooms_import_only_what_they_may(tree):
    assert list(rooms_broken(tree)) == []


def test_the_table_has_no_room_that_is_not_there(tree):
    there = {module.room for module in tree.values()}
    assert set(ROOMS) <= there and all(rooms <= set(ROOMS) for rooms in ROOMS.values())


def test_contributing_names_every_room(tree):
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = {
        path.rstrip("/")
        for path in re.findall(r"`((?:jaxtrain|experiments|tests|docs|launch)/[\w./]*)`", page)
    }
    assert [path for path in sorted(named) if "NAME" not in path and not (ROOT / path).exists()] == []
    rooms = {module.room.split(".")[0] for module in tree.values()}
    folders = {f"jaxtrain/{room}" for room in rooms if (ROOT / "jaxtrain" / room).is_dir()} - {"jaxtrain/"}
    assert folders - named == set()


def test_few_modules_import_a_world(tree):
    assert shrinking(imports_a_world(tree), WORLD_TODAY) == []


def test_packages_stay_in_their_rooms(tree):
    assert list(third_party_broken(tree)) == []


def test_runtimes_are_named_in_one_file(tree):
    assert list(parallel_broken(tree)) == []


def test_experiments_are_commands(tree):
    assert list(experiments_broken(tree)) == []


def test_flag_groups_are_in_config_modules(tree):
    assert list(groups_elsewhere(tree)) == []


# The rules fail where they should.


@pytest.mark.parametrize(
    "files",
    [
        {"jaxtrain/a.py": "import jaxtrain.b", "jaxtrain/b.py": "from jaxtrain import a"},
        {"jaxtrain/a.py": "def f():\n    from . import b", "jaxtrain/b.py": "from jaxtrain.a import f"},
        {
            "jaxtrain/a.py": "if TYPE_CHECKING:\n    from .b import x",
            "jaxtrain/b.py": "from jaxtrain.a import f",
        },
        {"jaxtrain/a.py": "importlib.import_module('jaxtrain.b')", "jaxtrain/b.py": "import jaxtrain.a"},
    ],
    ids=["plain", "lazy", "typing", "by_name"],
)
def test_a_circle_is_found(tmp_path, files):
    extra = {
        "jaxtrain/__init__.py": "",
        "jaxtrain/leaf.py": "",
        "jaxtrain/user.py": "from jaxtrain import a, leaf",
    }
    edges = source.edges(source.write(tmp_path, {**extra, **files}))
    assert circle(edges) == ["jaxtrain.a", "jaxtrain.b", "jaxtrain.a"]
    edges["jaxtrain.b"] = set()
    assert circle(edges) == []


@pytest.mark.parametrize(
    ("path", "text", "other"),
    [
        ("jaxtrain/objectives/x.py", "from jaxtrain.train import step", "jaxtrain/train/step.py"),
        ("jaxtrain/objectives/x.py", "from jaxtrain import config", "jaxtrain/config.py"),
        ("jaxtrain/models/x.py", "import jaxtrain.objectives.sft", "jaxtrain/objectives/sft.py"),
        ("jaxtrain/data/x.py", "def f():\n    from jaxtrain import types", "jaxtrain/types.py"),
        ("jaxtrain/rl/x.py", "from jaxtrain.inference.llm import LLM", "jaxtrain/inference/llm.py"),
        ("jaxtrain/stages/x.py", "from ..rl import rollouts", "jaxtrain/rl/rollouts.py"),
        ("jaxtrain/inference/x.py", "from jaxtrain.apps.serve import http", "jaxtrain/apps/serve/http.py"),
        ("jaxtrain/apps/evals/x.py", "from jaxtrain.apps.serve import http", "jaxtrain/apps/serve/http.py"),
        ("jaxtrain/apps/evals/x.py", "from experiments import sft", "experiments/sft.py"),
    ],
)
def test_a_wrong_import_is_found(tmp_path, path, text, other):
    modules = source.write(tmp_path, {path: text, other: ""})
    here, there = (name.removesuffix(".py").replace("/", ".") for name in (path, other))
    assert list(rooms_broken(modules)) == [f"{here} imports {there}"]


def test_a_room_that_is_not_in_the_table_is_found(tmp_path):
    modules = source.write(tmp_path, {"jaxtrain/helpers/x.py": "", "jaxtrain/utils.py": ""})
    assert len(list(rooms_broken(modules))) == 2


def test_right_imports_pass(tmp_path):
    files = {
        "jaxtrain/apps/annotation/web.py": "from jaxtrain.apps.serve import http\nfrom jaxtrain.rl import x",
        "jaxtrain/apps/serve/http.py": "from jaxtrain import config, flags",
        "jaxtrain/rl/x.py": "from jaxtrain.stages import session\nimport jax",
        "jaxtrain/stages/session.py": "",
        "experiments/sft.py": "from jaxtrain.apps.annotation import web",
        "jaxtrain/config.py": "",
        "jaxtrain/flags.py": "import jaxtrain.config",
    }
    modules = source.write(tmp_path, files)
    assert [*rooms_broken(modules), *third_party_broken(modules), *parallel_broken(modules)] == []


def test_who_imports_a_world_is_found(tmp_path):
    files = {
        "jaxtrain/worlds/__init__.py": "",
        "jaxtrain/worlds/registry.py": "from jaxtrain.worlds.town import judge",
        "jaxtrain/worlds/town/__init__.py": "",
        "jaxtrain/worlds/town/judge.py": "",
        "jaxtrain/rl/x.py": "def f():\n    from jaxtrain.worlds.town.judge import gold",
        "experiments/x.py": "import jaxtrain.worlds.town",
        "jaxtrain/rl/y.py": "from jaxtrain.worlds import registry",
    }
    assert imports_a_world(source.write(tmp_path, files)) == {"jaxtrain.rl.x", "experiments.x"}


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("jaxtrain/data/x.py", "import jax.numpy as jnp"),
        ("jaxtrain/files/x.py", "def f():\n    import optax"),
        ("jaxtrain/models/zoo.py", "from flax import linen"),
        ("jaxtrain/measures/x.py", "import scipy.stats"),
        ("jaxtrain/stages/x.py", "import orbax.checkpoint as ocp"),
        ("jaxtrain/train/x.py", "import grain"),
        ("experiments/x.py", "import tensorflow_datasets as tfds"),
    ],
)
def test_a_package_in_a_wrong_room_is_found(tmp_path, path, text):
    assert len(list(third_party_broken(source.write(tmp_path, {path: text})))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "jax.pmap(f)",
        "jax.device_put(x, s)",
        "from jax.sharding import PartitionSpec as P",
        "x: Mesh",
        "jax.sharding.NamedSharding",
    ],
)
def test_a_runtime_named_elsewhere_is_found(tmp_path, text):
    quiet = "'''A Mesh.'''\nkind = 'pmap'  # shard_map\n"
    files = {
        "jaxtrain/models/x.py": quiet + text,
        "jaxtrain/rl/y.py": quiet,
        "jaxtrain/train/parallel.py": text,
    }
    (found,) = parallel_broken(source.write(tmp_path, files))
    assert found.startswith("jaxtrain.models.x names")


def test_an_experiment_that_is_no_command_is_found(tmp_path):
    command = 'def main(cfg): ...\nif __name__ == "__main__":\n    flags.launch(Cfg, main, "x")\n'
    files = {
        "experiments/__init__.py": "",
        "experiments/good.py": command,
        "experiments/helper.py": "def main(): ...",
        "experiments/script.py": 'def main(): ...\nif __name__ == "__main__":\n    main()',
        "experiments/borrows.py": "from experiments import good\n" + command,
        "experiments/bench.py": "from experiments import good\n" + command,
        "experiments/constitutional.py": "from experiments import constitutional_pipeline\n" + command,
        "experiments/constitutional_pipeline.py": "from experiments import good",
        "experiments/papers/recipes.py": command,
        "experiments/papers/review_models.py": "",
        "experiments/papers/review_preferences.py": "",
        "experiments/papers/reward_proxies.py": "",
        "experiments/papers/figure.py": "from experiments.papers import recipes\n" + command,
    }
    assert sorted(experiments_broken(source.write(tmp_path, files))) == [
        "experiments.borrows imports experiments.good",
        "experiments.helper is no command",
        "experiments.papers.recipes is in the list of those that are no commands",
        "experiments.script is no command",
    ]


def test_a_flag_group_outside_of_a_config_module_is_found(tmp_path):
    files = {
        "jaxtrain/config.py": "class Group: ...\nclass Data(Group): ...",
        "jaxtrain/apps/serve/config.py": "class HttpFlags(config.Group): ...",
        "jaxtrain/apps/serve/app.py": "class More(HttpFlags): ...",
        "jaxtrain/data/x.py": "class Corpus(config.Data): ...\nclass Other(NamedTuple): ...",
        "experiments/x.py": "class XLoss(config.Group): ...",
    }
    assert sorted(groups_elsewhere(source.write(tmp_path, files))) == [
        "jaxtrain.apps.serve.app.More",
        "jaxtrain.data.x.Corpus",
    ]


def test_a_list_of_exceptions_only_shrinks():
    assert shrinking({"a", "b"}, {"b", "c"}) == [
        "a: breaks the rule",
        "c: no longer needed, take it off the list",
    ]
    assert shrinking({"a"}, {"a"}) == []


# The method of pathlib's and of epath's paths makes a folder of this machine of gs://: these modules know no buckets,
# or are where that is decided.
ABSOLUTE = {
    "experiments.export", "experiments.gpu_check", "jaxtrain.apps.filters.plan",
    "jaxtrain.data.completions_db", "jaxtrain.files.cache", "jaxtrain.files.hf_hub",
    "jaxtrain.files.paths", "jaxtrain.rewards.function_import",
}  # fmt: skip


def absolute(tree: Source) -> Iterator[str]:
    for name, module in tree.items():
        for node in ast.walk(module.tree):
            call = node.func if isinstance(node, ast.Call) and not node.args else None
            if isinstance(call, ast.Attribute) and call.attr in ("absolute", "resolve"):
                yield name


def test_paths_become_absolute_in_one_place(tree):
    assert set(absolute(tree)) == ABSOLUTE


def test_a_path_made_absolute_elsewhere_is_found(tmp_path):
    text = "def f(path): return path.absolute()"
    assert list(absolute(source.write(tmp_path, {"jaxtrain/train/x.py": text}))) == ["jaxtrain.train.x"]
