"""No data runs as a program: eval, pickle, a shell and remote code stand nowhere in jaxtrain, experiments and launch.

A list of exceptions only shrinks. The rule has a test that it fails.
"""

import ast
from collections.abc import Iterator

import pytest

from tests.source import ROOT, shrinking

BUILTINS = {"eval", "exec", "__import__", "execfile"}
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
CALLS = {"os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "pandas.read_pickle"}
# Keywords that hand a file or a name over to a program, with the one value that does not.
KEYWORDS = {"allow_pickle": False, "trust_remote_code": False, "shell": False, "weights_only": True}

# file -> why pickle is sound there: both ends are processes of the same command.
OWN_PROCESSES = {
    "jaxtrain/train/multihost.py": "values between the processes of one run, over jax's own collectives",
    "jaxtrain/apps/plan/compiler.py": "a pipe to the process that it starts",
    "jaxtrain/apps/plan/worker.py": "a pipe from the process that started it",
    "jaxtrain/files/workers.py": "pipes to and from the processes that it starts",
}
# Files that run programs, which is their subject: in a process that the sandbox has confined before.
CONFINED = {
    "jaxtrain/rewards/sandbox/candidate.py": "a completion",
    "jaxtrain/rewards/sandbox/tester.py": "the unit tests of a record",
}


def unsafe(tree: ast.Module) -> Iterator[str]:
    """What a module has of the above, as `line N: what`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else names
            yield from (
                f"line {node.lineno}: import of {m}" for m in modules if m.partition(".")[0] in MODULES
            )
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in CALLS or (isinstance(node.func, ast.Name) and name in BUILTINS):
                yield f"line {node.lineno}: call of {name}"
            if name == "torch.load" and "weights_only" not in {one.arg for one in node.keywords}:
                yield f"line {node.lineno}: torch.load without weights_only=True"
            for keyword in node.keywords:
                if (
                    keyword.arg in KEYWORDS
                    and getattr(keyword.value, "value", None) is not KEYWORDS[keyword.arg]
                ):
                    yield f"line {node.lineno}: {ast.unparse(keyword)}"


def files() -> dict[str, str]:
    """Path -> text of every Python file that is installed or launched."""
    paths = [path for folder in ("jaxtrain", "experiments", "launch") for path in (ROOT / folder).rglob("*")]
    texts = {
        path: path.read_text(encoding="utf-8")
        for path in paths
        if path.suffix in (".py", "") and path.is_file()
    }
    return {str(path.relative_to(ROOT)): text for path, text in texts.items()
            if path.suffix == ".py" or text.partition("\n")[0].endswith("python3")}  # fmt: skip


def test_nothing_runs_data_as_a_program():
    seen = {name: list(unsafe(ast.parse(text))) for name, text in files().items()}
    assert {"jaxtrain/config.py", "experiments/sft.py", "launch/mutate"} <= set(seen)
    assert not shrinking({name for name, lines in seen.items() if lines}, OWN_PROCESSES | CONFINED), seen
    for name in CONFINED:
        assert all("call of exec" in line for line in seen[name]), seen[name]
    for name in OWN_PROCESSES:
        assert all("import of pickle" in line for line in seen[name]), seen[name]


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "def f():\n    from cloudpickle import loads",
        "eval(x)",
        "exec(open(p).read())",
        "__import__(name)",
        "os.system(line)",
        "subprocess.run(line, shell=True)",
        "np.load(path, allow_pickle=flag)",
        "AutoModel.from_pretrained(x, trust_remote_code=True)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "yaml.load(text)",
    ],
)
def test_the_rule_fails(text):
    assert list(unsafe(ast.parse(text)))


@pytest.mark.parametrize(
    "text", ["re.compile(x)", "np.load(p, allow_pickle=False)", "model.eval()", "jitted.compile()"]
)
def test_the_rule_passes(text):
    assert not list(unsafe(ast.parse(text)))
