"""Environments: what answers a policy's completions, so that an episode has several turns."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from jaxtrain.data.messages import Message


class Observation(NamedTuple):
    """What an environment returns of a completion."""

    messages: Sequence[Message] = ()  # what follows the completion; not read once the episode is over
    reward: float = 0.0  # of this turn: an episode's score is the sum
    done: bool = False  # whether the episode is over
    metrics: Mapping[str, float] = {}  # reported as environment/NAME: the sum over an episode's turns


class Environment(Protocol):
    """One episode: an instance is made for each. An attribute `template_kwargs` goes to the chat template (tools)."""

    def reset(self, row: Mapping[str, Any], seed: int) -> Sequence[Message]:
        """The first messages. `row` is a record of --data, with the prompt's messages as "messages".

        The episodes of a group (--group) have the same row and seed; whatever is random must follow from the seed.
        """

    def step(self, completion: str) -> Observation:
        """What follows a completion, which is its text without the token that ends it."""
