"""--merge: weights, and models that do not fit each other, by name."""

import dataclasses

import pytest

from jaxtrain.config import ConfigError
from jaxtrain.data.tokenizer import ByteTokenizer
from jaxtrain.models.zoo import Arch
from jaxtrain.stages import merge_spec
from jaxtrain.stages.init_from import InitFrom

ARCH = Arch(layers=2, width=16, heads=2, ff=32, vocab=320)


def model(name, *, template="", fingerprint="same", origin="", parent=(), **arch):
    tokenizer = ByteTokenizer()
    tokenizer.chat_template, tokenizer.fingerprint = template, fingerprint
    lineage = {
        "run": f"/runs/{name}",
        "stage": "sft",
        "step": 8,
        "parent": dict(parent),
        "origin": origin or name,
    }
    return InitFrom(dataclasses.replace(ARCH, **arch), tokenizer, lineage)


MODELS = {
    "a": model("a", template="A", max_len=64, dropout=0.1, family="llama", parent={"origin": "hf:org/base@1"}),
    "runs/b": model("b", parent={"origin": "hf:org/base@1"}),
    "c": model("c", max_len=32, kv_heads=2, head_width=8, template="C"),
    "also-a": model("a", origin="a"),
    "deep": model("deep", layers=3, ff=64),
    "theta": model("theta", rope_theta=5e5),
    "other": model("other", fingerprint="other"),
    "short": model("short", positions="learned", max_len=32),
    "long": model("long", positions="learned", max_len=64),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _models(monkeypatch):
    monkeypatch.setattr(merge_spec.init_from, "load_run", lambda name, flag: MODELS[name])


def resolve(text, method="linear", base=""):
    return merge_spec.resolve(text, method, base, 0.2, 1.0)


@pytest.mark.parametrize(
    ("text", "method", "base", "weights"),
    [
        ("a*0.5,runs/b*0.5", "linear", "", [0.5, 0.5]),
        ("a, runs/b", "linear", "", [0.5, 0.5]),
        ("a*3,runs/b", "slerp", "", [0.75, 0.25]),
        ("a*1e-1,runs/b*.3,c*0.6", "linear", "", [0.1, 0.3, 0.6]),
        ("a*0.5,c*-1", "task", "runs/b", [0.5, -1]),
        ("a*2,c", "ties", "runs/b", [2, 1]),
    ],
)
def test_weights(text, method, base, weights):
    merge = resolve(text, method, base)
    assert [one.weight for one in merge.inputs] == pytest.approx(weights)
    assert merge.base is (MODELS[base] if base else None)


@pytest.mark.parametrize(
    ("text", "method", "base", "message"),
    [
        ("a", "linear", "", "name two models or more"),
        ("", "linear", "", "name two models or more|names no model"),
        ("a,,c", "linear", "", "a part of it names no model"),
        ("a*0.5,*0.5", "linear", "", "a part of it names no model"),
        ("a*x,c", "linear", "", r"the weight \*x must be a number above 0"),
        ("a*0,c", "linear", "", r"the weight \*0 must be a number above 0"),
        ("a*nan,c", "linear", "", r"the weight \*nan must"),
        ("a*inf,c", "ties", "c", r"the weight \*inf must"),
        ("a*-1,c", "slerp", "", r"the weight \*-1 must be a number above 0"),
        ("a*-1,c*0", "task", "runs/b", r"the weight \*0 must be a number other than 0"),
        ("a,runs/b,c", "slerp", "", "slerp takes two models, not 3"),
        ("a,c", "ties", "", "--merge_method=ties: name with --merge_base"),
        ("a,c", "slerp", "runs/b", "--merge_base=runs/b: acts only with --merge_method=task or ties"),
        ("a,also-a", "linear", "", "a and also-a are the same checkpoint"),
        ("a,deep", "linear", "", r"a and deep have different architectures \(layers 2 and 3, ff 32 and 64\)"),
        ("a,theta", "linear", "", r"different architectures \(rope_theta 10000.0 and 500000.0\)"),
        ("short,long", "linear", "", r"\(positions table 32 and 64\)"),
        ("a,c", "task", "deep", "--merge_base: a and deep have different architectures"),
        ("a,other", "linear", "", "a and other have different tokenizers"),
        ("a,c", "ties", "other", "--merge_base: a and other have different tokenizers"),
    ],
)
def test_what_cannot_be_merged_is_named(text, method, base, message):
    with pytest.raises(ConfigError, match=message):
        resolve(text, method, base)


def test_the_result_has_the_shortest_context_and_the_first_template():
    one = resolve("runs/b*0.25,a*0.75")
    assert (one.start.arch.max_len, one.start.tokenizer.chat_template) == (64, "A")
    assert one.start.lineage["origin"] == "linear of b*0.25, a*0.75" and one.start.origins == ()
    assert one.start.lineage["parent"]["parent"] == {"origin": "hf:org/base@1"}
    assert one.notes == ("chat template: that of a; not all have the same",)
    other = resolve("a,c")
    assert other.start.arch.max_len == 32 and other.start.lineage["parent"] == {}
