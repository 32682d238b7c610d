"""Flags act or are refused: every flag of every command is read where the command does its work, and what would do
nothing beside another flag is refused."""

import ast
import functools

import pytest

from experiments import (
    bench,
    collect_preferences,
    constitutional,
    distill,
    evaluate,
    filter_data,
    ppo,
    synthesize,
)
from jaxtrain import config, flags
from jaxtrain.config import ConfigError
from tests import source
from tests.test_flags import commands

# Command -> flags that no code of it reads by name, and why they act, or are refused, all the same.
UNREAD = {
    "experiments.grpo": (
        {"clip_ratio", "clip_ratio_high", "eval_batches", "multi_objective_aggregation"},
        "by name in GrpoLoss.resolved; eval_batches as in ppo",
    ),
    "experiments.online_dpo": ({"eval_batches"}, "as in ppo"),
    "experiments.ppo": ({"eval_batches"}, "a live flag of all runs; --prompts are evaluated, --prompt_count of them"),
    "experiments.sample": ({"top_p", "min_p", "repetition_penalty"}, "the sampling parameters as a dict"),
    "experiments.soak": ({"requests"}, "by name, as the other attacks"),
    "experiments.bench": (
        {
            "mask_rate", "eval_every", "eval_batches", "eval_tasks_dir", "eval_tasks_every", "eval_tasks_limit",
            "sample_every", "checkpoint_every", "log_every", "max_skips", "skip_spikes", "streaming",
        },
        "refused in require_acting",
    ),
}  # fmt: skip
CHECKS = {"check", "__post_init__"}  # methods of groups that read a flag to refuse it: that is no effect


class _Reads(ast.NodeVisitor):
    """Names of the attributes that a module reads outside of CHECKS."""

    def __init__(self):
        self.names = set()

    def visit_FunctionDef(self, node):
        if node.name not in CHECKS or [each.arg for each in node.args.args] != ["self"]:
            self.generic_visit(node)

    def visit_Attribute(self, node):
        if isinstance(node.ctx, ast.Load):
            self.names.add(node.attr)
        self.generic_visit(node)


@functools.cache
def reads(name):
    visitor = _Reads()
    visitor.visit(source.checkout()[name].tree)
    return frozenset(visitor.names)


def reached(name, edges):
    """The modules that a command may import, itself among them."""
    found, left = set(), [name]
    while left:
        if (one := left.pop()) not in found and one in edges:
            found.add(one)
            left += edges[one]
    return found


def unread(name, cls, edges):
    """The flags that no module of a command reads."""
    known = frozenset().union(*map(reads, reached(name, edges)))
    return {field.name for _, field, _ in config.leaves(cls)} - known


def test_every_flag_is_read_by_its_command_or_stands_in_the_list():
    edges = source.edges(source.checkout())
    assert {name: found for name, cls in commands() if (found := unread(name, cls, edges))} == {
        name: names for name, (names, _) in UNREAD.items()
    }


def test_a_flag_that_nothing_reads_is_found(tmp_path):
    text = "class Group:\n    def check(self):\n        self.steps\n    def acts(self):\n        return self.lr\n"
    visitor = _Reads()
    visitor.visit(source.write(tmp_path, {"jaxtrain/x.py": text})["jaxtrain.x"].tree)
    assert visitor.names == {"lr"}


@pytest.mark.parametrize(
    "flag", [field.name for part, field, _ in config.leaves(bench.Bench) if part in bench.ACTING]
)
def test_a_flag_of_training_acts_in_a_benchmark_or_is_refused(flag):
    (found,) = [(part, field) for part, field, _ in config.leaves(bench.Bench) if field.name == flag]
    part, field = found
    default = getattr(getattr(bench.Bench(), part), flag)
    other = _other(field, default)
    group = getattr(bench.Bench(), part)
    changed = type(group).__new__(type(group))
    for one in vars(group):
        object.__setattr__(changed, one, other if one == flag else getattr(group, one))
    cfg = bench.Bench(**{part: changed})
    if flag in bench.ACTING[part]:
        bench.require_acting(cfg)
    else:
        with pytest.raises(ConfigError, match=rf"^--{flag}: bench measures a step .*; leave it out$"):
            bench.require_acting(cfg)


def _other(field, default):
    choices = [choice for choice in field.metadata["choices"] if choice != default]
    if choices:
        return choices[0]
    return (
        not default if isinstance(default, bool) else default + 1 if not isinstance(default, str) else "other"
    )


URL = "http://127.0.0.1:1/v1?model=m"
FILTER = "--data=tinytown:pretrain --out=clean"
SILENT = [  # a command line whose last flag would do nothing, and what the message says of it
    (distill, "--teacher=runs/ppo --tokenizer=byte", "--tokenizer: a student takes the teacher's tokenizer"),
    (distill, "--teacher=hf:org/name --tokenizer=bpe:300", "--tokenizer: a student takes"),
    (distill, "--teacher=runs/ppo --hard_weight=1 --divergence=jsd", "--divergence: --hard_weight=1 leaves no"),
    (distill, "--teacher=runs/ppo --hard_weight=1 --soft_temperature=2", "--soft_temperature: --hard_weight=1"),
    (distill, "--teacher=runs/ppo --retries=1", "--retries: acts only with an endpoint"),
    (evaluate, "--models=runs/a,runs/b --price_in=3", "--price_in: acts only with an endpoint"),
    (evaluate, "--models=runs/a --topics= --simply=briefly", "--simply: acts only with --topics"),
    (evaluate, f"--models={URL} --mesh=data:1", "--mesh: acts only with a model on this machine"),
    (evaluate, f"--models={URL} --dtype=bfloat16", "--dtype: acts only with a model on this machine"),
    (synthesize, "--generator=runs/a --topics=x --out=a.jsonl --use_cache=false", "--use_cache: acts only"),
    (synthesize, f"--generator={URL} --topics=x --out=a.jsonl --dtype=bfloat16", "--dtype: acts only"),
    (collect_preferences, "--model=runs/a --timeout=3 --retries=2", "--timeout, --retries: .*; leave them out"),
    (constitutional, "--init_from=runs/a --critic=runs/b --concurrency=2", "--concurrency: acts only with an end"),
    (constitutional, "--init_from=runs/a --pairs=2", "--pairs=2 acts only with --phase=compare or all"),
    (constitutional, "--phase=compare --init_from=runs/a --rounds=2", "--rounds=2 acts only with --phase=revise or"),
    (constitutional, "--phase=compare --init_from=runs/a --rl=dpo", "--rl=dpo acts only with --phase=all"),
    (filter_data, f"{FILTER} --heuristics=off --min_words=9", "--min_words: --heuristics=off leaves the step out"),
    (filter_data, f"{FILTER} --harm=off --max_harm=9", "--max_harm: --harm=off leaves the step out"),
    (filter_data, f"{FILTER} --max_bits=3", "--max_bits: acts only with --scored_by"),
    (filter_data, f"{FILTER} --min_language=.9 --language_from=9", "--language_from, --min_language: acts only with"),
    (bench, "--task=sample --lr=0.1", "--lr: --task=sample trains nothing"),
]  # fmt: skip


def launched(module):
    """The config class of a command."""
    (cls,) = [cls for name, cls in commands() if name == module.__name__]
    return cls


@pytest.mark.parametrize(
    ("module", "argv", "message"), [pytest.param(*each, id=f"{each[1].split()[-1]}") for each in SILENT]
)
def test_what_would_do_nothing_is_refused(module, argv, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        module.main(flags.from_flags(launched(module), argv.split()))


def test_ptx_data_acts_with_the_automatic_weight_and_is_refused_without_one():
    given = ["--ptx_data=tinytown:sft"]
    assert flags.from_flags(ppo.Ppo, given).loss.pretraining("tinytown:prompts") == 0.1
    assert flags.from_flags(ppo.Ppo, [*given, "--ptx_weight=2"]).loss.pretraining("jsonl:a.jsonl") == 2
    for more, data in (([], "jsonl:a.jsonl"), (["--ptx_weight=0"], "tinytown:prompts")):
        with pytest.raises(ConfigError, match="--ptx_data: acts only with --ptx_weight above 0, and it is 0"):
            flags.from_flags(ppo.Ppo, [*given, *more]).loss.pretraining(data)
