"""Rewards from functions: named ones, the user's own, and everything that can be wrong with one."""

import asyncio
import functools
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.config import ConfigError, Failure
from jaxtrain.rewards import function_args, functions
from jaxtrain.rewards.function_args import Scored
from jaxtrain.rewards.functions import RewardFunction

CONVERSATIONS = [
    [{"role": "user", "content": "How do I wash a bike?"}],
    [
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "What is 3 + 4?"},
    ],
    [{"role": "user", "content": "Spell cat."}],
]
COMPLETIONS = ["You can wipe the bike.", "8.", "cat is spelled c-a-t."]
RECORDS = [{"family": "ben"}, {"family": "sum", "answer": 7}, {"family": "str", "completions": "not ours"}]


def scored(call, conversations=CONVERSATIONS, completions=COMPLETIONS, records=RECORDS):
    return functions.reward_scores(RewardFunction("mine", call), conversations, completions, records)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current folder with modules of the user's, which is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_named_rewards_are_those_of_the_judge():
    gold, correct = (
        functions.reward_scores(functions.resolve(name), CONVERSATIONS, COMPLETIONS, RECORDS)
        for name in functions.NAMED
    )
    assert gold.tolist() == [1.0, -1.0, 2.5] and gold.dtype == np.float32
    assert correct.tolist() == [1.0, 0.0, 1.0]


def test_a_function_gets_the_columns_of_the_records():
    def function(prompts, completions, **columns):
        assert (
            prompts == ["How do I wash a bike?", "What is 3 + 4?", "Spell cat."]
            and completions == COMPLETIONS
        )
        assert columns.keys() == {"messages", "family", "answer", "log_extra", "log_metric"}
        assert columns["messages"] == CONVERSATIONS and columns["family"] == ["ben", "sum", "str"]
        assert columns["answer"] == [None, 7, None]
        return [0.5, 0.25, -1]

    assert scored(function).tolist() == [0.5, 0.25, -1.0]
    assert scored(lambda completions, answer: [len(c) for c in completions]).tolist() == list(
        map(len, COMPLETIONS)
    )


NUMBERS = {
    "integers and parts": ([1, 0.7, True], [1.0, 0.7, 1.0]),
    "numpy": (np.array([1, 2, 3], np.int64), [1.0, 2.0, 3.0]),
    "numpy bools": (np.array([True, False, True]), [1.0, 0.0, 1.0]),
    "jax": (jnp.array([0.5, 1.5, 2.5]), [0.5, 1.5, 2.5]),
    "generator": ((x / 2 for x in (1, 2, 3)), [0.5, 1.0, 1.5]),
    "None where it does not apply": ([1, None, 2], [1.0, np.nan, 2.0]),
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_every_kind_of_number_is_a_reward(kind):
    given, wanted = NUMBERS[kind]
    np.testing.assert_array_equal(scored(lambda completions: given), np.array(wanted, np.float32))


WRONG = {
    "none at all": (None, "returned None, not a list of numbers"),
    "a number": (0.5, "returned a float, not a list of numbers"),
    "text": ("abc", "returned a str, not a list of numbers"),
    "too few": ([1.0], "returned 1 numbers for 3 completions"),
    "too many": ([1.0] * 4, "returned 4 numbers for 3 completions"),
    "text for one": ([1, 1, "1"], r"returned a str, no number, at row 2 \(Spell cat\.\)"),
    "complex": ([1j, 1, 1], "returned a complex, no number, at row 0"),
    "a row of numbers": (np.ones((3, 2)), "returned a ndarray, no number, at row 0"),
    "NaN": ([1, 1, float("nan")], r"returned nan \(None says that it does not apply\) at row 2"),
    "infinite": (np.array([1, -np.inf, 1]), "returned -inf at row 1"),
    "beyond f32": ([1e39, 1, 1], r"returned a number beyond f32 at row 0"),
    "beyond any float": ([10**5000, 1, 1], r"returned a number beyond f32 at row 0"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_number_for_each_completion_stops_the_run(kind):
    value, message = WRONG[kind]
    with pytest.raises(Failure, match=f"--reward=mine {message}"):
        scored(lambda prompts, completions, **columns: value)


def test_where_a_function_raises_the_row_is_named():
    def function(completions, **columns):
        return [1 / (text != "8.") for text in completions]

    with pytest.raises(Failure, match=r"mine raised at row 1 \(What is 3 \+ 4\?\): ZeroDiv") as caught:
        scored(function)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)

    def together(completions, **columns):
        return [1 / (2 - len(completions) // 3 * 2) for _ in completions]

    with pytest.raises(Failure, match="raised at all rows at once, though none alone: ZeroDivisionError"):
        scored(together)
    with pytest.raises(Failure, match=r"missing 1 required positional argument: 'label'"):
        scored(lambda completions, label: [1.0] * 3)


def test_prompts_that_tinytown_does_not_know_are_refused():
    conversations = [
        CONVERSATIONS[0],
        [{"role": "user", "content": "Who wrote the long book about the whale and the sea?"}],
    ]
    message = (
        r"--reward=gold raised at row 1 \(Who wrote the long book about the whale …\): ValueError: not a Tiny"
    )
    with pytest.raises(Failure, match=message):
        functions.reward_scores(functions.resolve("gold"), conversations, COMPLETIONS[:2], RECORDS[:2])


def test_a_batch_of_unequal_lists_is_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="3 prompts, 2 completions, 3 records"):
        scored(lambda completions: [1.0] * 2, completions=COMPLETIONS[:2])


SOURCE = """
import dataclasses

@dataclasses.dataclass
class Scale:
    by: float
    def of(self, prompts, completions, **columns):
        return [self.by * len(text) for text in completions]

half = Scale(0.5)
number = 3

def length(prompts, completions, **columns):
    return [len(text) for text in completions]

def alone(text):
    return [1.0]

async def later(prompts, completions, **columns):
    return [1.0]
"""


@pytest.mark.parametrize("form", ["my_rewards:{}", "my_rewards.py:{}", "deep.inner:{}", "deep/inner.py:{}"])
def test_a_function_is_found_in_the_current_folder(here, form):
    (here / "deep").mkdir()
    for path in (here / "my_rewards.py", here / "deep" / "inner.py"):
        path.write_text(SOURCE)
    lengths = np.array(list(map(len, COMPLETIONS)), np.float32)
    for name, wanted in (("length", lengths), ("half.of", lengths / 2)):
        reward = functions.resolve(form.format(name))
        assert reward.name == form.format(name)
        np.testing.assert_array_equal(
            functions.reward_scores(reward, CONVERSATIONS, COMPLETIONS, RECORDS), wanted
        )
    assert sys.path[0] != str(here), "the user's modules hide none of those imported later"


def test_a_module_sees_its_neighbours(here):
    (here / "near").mkdir()
    (here / "near" / "neighbour_of_mine.py").write_text("WEIGHT = 3\n")
    (here / "near" / "main_one.py").write_text(
        "from neighbour_of_mine import WEIGHT\ndef f(completions, **columns):\n    return [WEIGHT] * len(completions)\n"
    )
    reward = functions.resolve(f"{Path('near') / 'main_one.py'}:f")
    assert functions.reward_scores(reward, CONVERSATIONS, COMPLETIONS, RECORDS).tolist() == [3.0] * 3


REFUSED = {
    "an unknown name": (
        "golden",
        "--reward=golden: write gold, correct, math, format, .*, MODULE:FUNCTION or FILE.py:FUNCTION",
    ),
    "no function": ("my_rewards:", "--reward=my_rewards:: write gold"),
    "no module": ("nowhere_at_all:f", "no module nowhere_at_all, neither in .* nor installed"),
    "no submodule": ("json.nowhere:f", r"no module json\.nowhere, neither"),
    "no file": ("nowhere.py:f", r"no such file: nowhere\.py"),
    "no attribute": ("my_rewards:lengths", r"my_rewards \(.*my_rewards\.py\) has no lengths"),
    "no inner attribute": ("my_rewards:half.on", "Scale has no on"),
    "no function but a number": ("my_rewards:number", "it is a int, not a function"),
    "a class": ("my_rewards:Scale", "it is a class, not a function: name an instance"),
    "other arguments": ("my_rewards:alone", "does not take completions by keyword .*: write def reward"),
    "a module that needs another": ("needs_more:f", "needs_more needs a module not_installed_anywhere"),
    "a file that needs another": ("needs_more.py:f", r"needs_more\.py needs a module not_installed_anywhere"),
    "a module that fails": ("fails:f", "fails cannot be imported: ZeroDivisionError: division by zero"),
    "no Python": ("broken:f", "broken cannot be imported: SyntaxError"),
    "another format": ("my_rewards:length?format=json", "format=json is none of auto, text, messages"),
    "a weight that is none": ("my_rewards:length*1.2.3", r"the weight \*1\.2\.3 is not a number"),
    "two, one of them unknown": ("gold,golden", "--reward=gold,golden: write gold, correct"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_function_is_refused(here, kind):
    (here / "my_rewards.py").write_text(SOURCE)
    (here / "needs_more.py").write_text("import not_installed_anywhere\n")
    (here / "fails.py").write_text("1 / 0\n")
    (here / "broken.py").write_text("def f(:\n")
    text, message = REFUSED[kind]
    with pytest.raises(ConfigError, match=message):
        functions.resolve(text)


CHAT = [
    [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi."}],
    [{"role": "user", "content": "Go."}],
]


class Counted:
    """A callable object; the count of its calls."""

    calls = 0

    def __call__(self, prompts, completions, **columns):
        Counted.calls += 1
        return [float(len(completion[0]["content"])) for completion in completions]


async def later(completions, **columns):
    await asyncio.sleep(0)
    return [float(len(text)) for text in completions]


def torch():
    return pytest.importorskip("torch")


def joined(prompts, completions, **columns):
    return [len("".join(m["content"] for m in (*p, *c))) for p, c in zip(prompts, completions, strict=True)]


def annotated(completions: list[list[dict[str, str]]], **columns) -> list[float]:
    return [
        float(isinstance(c, list) and c == [{"role": "assistant", "content": t}])
        for c, t in zip(completions, ("Yes.", ""), strict=True)
    ]


def typed(completions: "list[str]", **columns):
    return [float(type(c) is str) for c in completions]


# TRL's functions and ours, with their rewards of the completions "Yes." and "".
FUNCTIONS = {
    "its one message": (lambda completions, **columns: [len(c[0]["content"]) for c in completions], [4, 0]),
    "its last message": (lambda completions, **columns: [len(c[-1].get("content")) for c in completions], [4, 0]),
    "a text": (lambda completions, **columns: [len(c) for c in completions], [4, 0]),
    "items of a text": (lambda completions, **columns: [c[:1] == "Y" and c[-1].islower() is False for c in completions],
                        [1, 0]),
    "a text or messages": (lambda completions, **columns: [len(c if isinstance(c, str) else c[0]["content"])
                                                           for c in completions], [4, 0]),
    "the question's messages": (lambda prompts, completions: [len(p[-1]["content"]) + 10 * (p[0]["role"] == "system")
                                                              for p in prompts], [13, 3]),
    "the question's text": (lambda prompts, completions: [len(p) for p in prompts], [3, 3]),
    "both in one": (lambda completions, **columns: [len(c[0]["content"] + c) for c in completions], [8, 0]),
    "an object": (Counted(), [4, 0]),
    "a part": (functools.partial(lambda by, completions, **columns: [by * len(c) for c in completions], 2), [8, 0]),
    "a coroutine": (later, [4, 0]),
    "a part of a coroutine": (functools.partial(later), [4, 0]),
    "what returns a coroutine": (lambda completions, **columns: later(completions), [4, 0]),
    "items in a loop": (joined, [15, 3]),
    "annotated messages": (annotated, [1, 1]),
    "annotated texts": (typed, [1, 1]),
    "tensors": (lambda completions, **columns: torch().tensor([len(c) for c in completions]), [4, 0]),
    "scalars of tensors": (lambda completions, **columns: [torch().tensor(1.5, requires_grad=True)] * 2, [1.5, 1.5]),
}  # fmt: skip


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_functions_of_texts_and_of_messages_run_as_they_are(kind):
    function, wanted = FUNCTIONS[kind]
    assert scored(function, CHAT, ["Yes.", ""], [{}, {}]).tolist() == wanted


def test_a_function_that_takes_messages_alone_gets_them_from_then_on(capsys):
    reward = RewardFunction("mine", joined)
    for _ in range(2):
        functions.reward_scores(reward, CHAT, ["Yes.", ""], [{}, {}])
    assert reward.format == "messages"
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "raised with texts (TypeError: " in lines[0] and "?format=messages" in lines[0]
    with pytest.raises(Failure, match="string indices must be integers"):
        functions.reward_scores(RewardFunction("mine", joined, format="text"), CHAT, ["Yes.", ""], [{}, {}])


def test_an_error_of_the_function_itself_is_not_taken_for_a_wish_for_messages():
    def divides(completions, **columns):
        return [1 / len(text) for text in completions]

    with pytest.raises(
        Failure, match=r"at row 1 \(Go\.\): ZeroDivisionError: .*test_functions\.py:\d+\).*format=messages"
    ):
        scored(divides, CHAT, ["Yes.", ""], [{}, {}])


def test_several_functions_with_weights_are_added_where_they_apply():
    def long(completions, **columns):
        return [None if len(c) < 4 else 1 for c in completions]

    def never(completions, **columns):
        return [None] * len(completions)

    parts = (RewardFunction("a:long", long, weight=2.0), RewardFunction("b:later", later, weight=-0.5))
    result = functions.scores(functions.WeightedReward("both", parts), Scored(CHAT, ["Yes.", ""], [{}, {}]))
    assert result.total.tolist() == [0.0, 0.0] and result.by_function["later"].tolist() == [4, 0]
    np.testing.assert_array_equal(result.by_function["long"], [1, np.nan])
    alone = functions.scores(functions.WeightedReward("one", parts[:1]), Scored(CHAT, ["Yes.", ""], [{}, {}]))
    np.testing.assert_array_equal(alone.total, [2, np.nan])
    assert np.isnan(scored(never, CHAT, ["Yes.", ""], [{}, {}])).all()


def test_coroutines_run_at_the_same_time_and_in_one_loop():
    loops, order = [], []

    def waits(name, other):
        async def function(completions, **columns):
            loops.append(asyncio.get_running_loop())
            order.append(name)
            while other not in order:
                await asyncio.sleep(0)
            return [1.0] * len(completions)

        return RewardFunction(name, function)

    reward = functions.WeightedReward("two", (waits("a", "b"), waits("b", "a")))
    for _ in range(2):
        assert functions.scores(reward, Scored(CHAT, ["Yes.", ""], [{}, {}])).total.tolist() == [2.0, 2.0]
    assert len(set(map(id, loops))) == 1


def test_ids_state_and_logs_are_those_of_trl():
    def function(completions, completion_ids, trainer_state, log_extra, log_metric, **columns):
        log_extra("first", [ids[0] for ids in completion_ids])
        log_metric("share", np.float32(0.5))
        log_metric("share", trainer_state.global_step / trainer_state.max_steps)
        return [len(ids) for ids in completion_ids]

    state = function_args.TrainerState(global_step=3, max_steps=4)
    full = Scored(CHAT, ["Yes.", "No"], [{}, {}], ids=[np.array([5, 6]), [7]], state=state)
    result = functions.scores(RewardFunction("mine", function), full)
    assert result.total.tolist() == [2, 1]
    assert result.logs.extra == {"first": [5, 7]} and result.logs.metrics == {"share": [0.5, 0.75]}
    for wrong, message in (
        (lambda completions, log_extra: log_extra("x", [1]) or [1, 1], "1 values for 2 completions"),
        (lambda completions, log_metric: log_metric("x", "a") or [1, 1], "'a' is not a finite number"),
        (lambda completions, log_metric: log_metric("objective/kl", 1) or [1, 1], "metrics of its own"),
    ):
        with pytest.raises(Failure, match=message):
            functions.scores(RewardFunction("mine", wrong), full)


@pytest.mark.parametrize("text, wanted", [
    ("gold", [("gold", "text", 1.0)]),
    ("gold*2,correct*-.5", [("gold", "text", 2.0), ("correct", "text", -0.5)]),
    ("my_rewards:length?format=messages*0.5", [("my_rewards:length", "messages", 0.5)]),
    ("a, b/my_rewards.py:length,gold", [("a, b/my_rewards.py:length", "auto", 1.0), ("gold", "text", 1.0)]),
    ("a, b/my_rewards.py:half.of*1e-1", [("a, b/my_rewards.py:half.of", "auto", 0.1)]),
])  # fmt: skip
def test_several_rewards_in_one_flag(here, text, wanted):
    (here / "a, b").mkdir()
    for folder in (here, here / "a, b"):
        (folder / "my_rewards.py").write_text(SOURCE)
    reward = functions.resolve(text)
    assert [(one.name, one.format, one.weight) for one in reward.functions] == wanted
    assert reward.name == text
