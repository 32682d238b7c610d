"""Environments with tools: calls, calls that cannot be read, and the environments that come with the library."""

import json

import pytest

from jaxtrain import worlds
from jaxtrain.rl import environment_calls, tool_environment
from jaxtrain.rl.environments import Observation
from jaxtrain.rl.tool_environment import ToolEnvironment
from jaxtrain.worlds.tinytown import tasks


class Shop(ToolEnvironment):
    def __init__(self):
        self.tools = {"price": self.price, "broken": self.broken}

    def price(self, fruit, count=1):
        if fruit != "fig":
            raise ValueError(f"no {fruit} here")
        return 3 * int(count)

    def broken(self):
        raise RuntimeError("a bug of the environment's")

    def answer(self, text):
        return Observation(reward=float(text == "3"), done=True)


def call(name="price", **arguments):
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


@pytest.mark.parametrize(
    "text, wanted",
    [
        (call(fruit="fig"), ["3"]),
        (f"<think>\nhm\n</think>\n\nI look. {call(fruit='fig', count=2)}", ["6"]),
        (call(fruit="fig") + call(fruit="fig", count=4), ["3", "12"]),
        ('{"name": "price", "arguments": {"fruit": "fig"}}', ["3"]),
        ("price(fig)", ["3"]),
        (' price("fig"). ', ["3"]),
    ],
)
def test_calls_are_carried_out_whatever_their_format(text, wanted):
    seen = Shop().step(text)
    assert [message["content"] for message in seen.messages] == wanted and not seen.done
    assert all(message["role"] == "tool" and message["name"] == "price" for message in seen.messages)
    assert seen.metrics == {"tool_calls": len(wanted), "tool_errors": 0} and seen.reward == 0


@pytest.mark.parametrize(
    "text, told",
    [
        ('<tool_call>{"name": "price", "arguments": {"fruit": "fi', "this is not a whole call"),
        ("<tool_call>price fig</tool_call>", "this is not a whole call"),
        ("price(fig", "the call has no end, or more behind it: write price(...)"),
        ("price(fig) please", "the call has no end, or more behind it"),
        (call("prices", fruit="fig"), "there is no tool prices; there are price, broken"),
        (call(vegetable="fig"), "price: missing a required argument: 'fruit'"),
        (call(fruit="fig", color="red"), "price: got an unexpected keyword argument 'color'"),
        ("price()", "price: missing a required argument"),
        (call(fruit="kiwi"), "no kiwi here"),
    ],
)
def test_a_call_that_fails_is_counted_and_the_model_is_told_why(text, told):
    seen = Shop().step(text)
    assert told in seen.messages[0]["content"] and seen.messages[0]["content"].startswith("Error: ")
    assert seen.metrics == {"tool_calls": 1, "tool_errors": 1} and not seen.done
    assert environment_calls.observation(seen).messages, "it is an observation as they are to be"


def test_a_text_without_a_call_is_the_answer_and_a_bug_of_a_tool_is_no_error_of_the_model():
    none = {"tool_calls": 0, "tool_errors": 0}
    assert Shop().step("<think>\n1+2\n</think>\n\n3") == Observation((), 1.0, True, none)
    for text in ("", "f(x) = 3", "the price(fig) is 3", "It costs {3}."):
        assert Shop().step(text) == Observation((), 0.0, True, none)
    with pytest.raises(RuntimeError, match="a bug"):
        Shop().step("broken()")


def play(name, player, seed):
    """(the rewards, the metrics) of an episode that a scripted player plays."""
    environment = tool_environment.shipped()[name]()
    messages, rewards, metrics = environment.reset({}, seed), [], {}
    for turn in range(30):
        seen = environment_calls.observation(environment.step(player(turn, [m["content"] for m in messages])))
        assert isinstance(seen, Observation)
        rewards.append(seen.reward)
        metrics = {key: metrics.get(key, 0) + value for key, value in seen.metrics.items()}
        if seen.done:
            return rewards, metrics
        messages = [*messages, *seen.messages]
    raise AssertionError("the episode does not end")


def finds(turn, texts):
    return texts[-1] if turn else f"search({texts[0]})"


def calculates(turn, texts):
    a, b = [word.strip(".?") for word in texts[0].split() if word.strip(".?").isdigit()]
    return f"{texts[-1]}." if turn else f"calculator({a} + {b})"


@pytest.mark.parametrize("name, player", [("search", finds), ("calculator", calculates)])
def test_a_player_that_uses_the_tool_has_the_whole_reward_and_one_that_guesses_little(name, player):
    played = [play(name, player, seed) for seed in range(60)]
    assert all(rewards == [0.0, 1.0] for rewards, _ in played)
    assert all(metrics == {"tool_calls": 1, "tool_errors": 0, "success": 1} for _, metrics in played)
    guess = {"search": "Lima.", "calculator": "70."}[name]
    won = [play(name, lambda turn, texts: guess, seed) for seed in range(60)]
    assert all(metrics["success"] == sum(rewards) for rewards, metrics in won)
    assert sum(sum(rewards) for rewards, _ in won) / 60 < 0.3


def test_twenty_questions_end_by_a_guess_or_by_their_number():
    for seed in range(20):
        rewards, metrics = play(
            "twenty_questions", lambda turn, texts: "Lima or Oslo?" if turn else "Hm", seed
        )
        assert len(rewards) == tasks.MOST_QUESTIONS and metrics == {"not_understood": 1, "success": 0}
        person = tasks.TwentyQuestions(seed).person
        assert play("twenty_questions", lambda turn, texts, who=person: f"{who}.", seed) == (
            [1.0], {"not_understood": 0, "success": 1},
        )  # fmt: skip


def test_all_tasks_of_the_world_are_environments():
    world = worlds.get()
    assert tool_environment.shipped().keys() == {*world.tool_tasks, *world.games}
