"""The arguments of reward functions: texts that have a message's keys, formats by annotation, what can be given."""

import json
import pickle
from collections.abc import Mapping, Sequence

import pytest

from jaxtrain.config import ConfigError
from jaxtrain.rewards import function_args, functions
from jaxtrain.rewards.function_args import Logs, Scored
from jaxtrain.rewards.functions import RewardFunction

USER = {"role": "user", "content": "Hi."}


def test_texts_with_a_message_s_keys_are_texts_everywhere():
    text = function_args.MessageText("Yes.", [{"role": "assistant", "content": "Yes."}])
    assert text == "Yes." and json.dumps(text) == '"Yes."' and f"{text}!" == "Yes.!" and text[1:] == "es."
    assert text[0] == "Y" and text[0]["role"] == "assistant" and text[3] == "." and hash(text) == hash("Yes.")
    again = pickle.loads(pickle.dumps(text))
    assert (
        again == text
        and again[0]["content"] == "Yes."
        and pickle.loads(pickle.dumps(text[0])).get("x", 1) == 1
    )
    with pytest.raises(KeyError):
        text[0]["name"]
    with pytest.raises(TypeError):
        text[1]["content"]


def test_a_text_keeps_its_characters_where_it_has_more_of_them_than_messages():
    text = function_args.MessageText(
        "ab", [USER, {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "ab"}]
    )
    assert [text[i] for i in range(3)] == ["a", "b", ""] and [text[i]["role"] for i in range(3)] == [
        "user", "assistant", "user",
    ]  # fmt: skip
    assert text[-1]["content"] == "ab" and list(text) == ["a", "b"] and len(text) == 2
    with pytest.raises(IndexError):
        text[3]


def hints():
    def messages(completions: list[list[dict[str, str]]]): ...
    def mapping(completions: Sequence[Sequence[Mapping[str, object]]]): ...
    def texts(completions: list[str]): ...
    def unknown(completions: list): ...
    def none(completions): ...
    def columns(**columns): ...

    return {
        messages: "messages",
        mapping: "messages",
        texts: "text",
        unknown: "auto",
        none: "auto",
        columns: "auto",
    }


@pytest.mark.parametrize(
    "function, wanted", hints().items(), ids=lambda value: getattr(value, "__name__", value)
)
def test_an_annotation_says_what_a_function_takes(function, wanted):
    assert function_args.annotated_format(function) == wanted


def test_a_function_gets_what_it_names_of_the_rows_asked_for():
    def function(prompts, answer, completion_ids=None, trainer_state=None): ...

    scored = Scored([[USER], [USER]], ["a", "b"], [{"answer": 1, "other": 2}, {}], ids=[[1], [2, 3]])
    logs = Logs({}, {})
    assert function_args.arguments(function, "text", scored, slice(1, 2), logs) == {
        "prompts": ["Hi."], "answer": [None], "completion_ids": [[2, 3]],
    }  # fmt: skip
    every = function_args.arguments(lambda **columns: None, "messages", scored, slice(None), logs)
    assert every["prompts"] == [[USER], [USER]] and every["other"] == [2, None]
    assert every["completions"] == [[{"role": "assistant", "content": text}] for text in "ab"]
    assert "trainer_state" not in every and set(every) == scored.names() - {"trainer_state"}


def test_arguments_that_cannot_be_given_are_named_before_anything_runs():
    def function(prompts, completions, answer, environments, image=None, *more, **columns):
        raise AssertionError("it is not called")

    reward = functions.WeightedReward("r", (RewardFunction("m:f", function),))
    names = function_args.available({"answer"}, has_ids=False, state=None)
    with pytest.raises(
        ConfigError,
        match="--reward=m:f: it needs environments, which the data does not have; there are "
        "answer, completions",
    ):
        functions.check_arguments(reward, names, "the data")
    functions.check_arguments(reward, {*names, "environments"}, "the data")
    state = functions.WeightedReward(
        "r", (RewardFunction("m:f", lambda completions, trainer_state, completion_ids: []),)
    )
    with pytest.raises(ConfigError, match="it needs trainer_state, completion_ids"):
        functions.check_arguments(state, names, "the data")
    functions.check_arguments(
        state, function_args.available(set(), True, function_args.TrainerState()), "the data"
    )
