r"""The grammar of --reward, without an import of what it names.

    REWARDS = REWARD[,REWARD ...]
    REWARD = NAME[?key=value[&key=value ...]][*WEIGHT]  |  MODULE:FUNCTION[?format=FORMAT][*WEIGHT]

A NAME is a reward that is shipped, with its options. A value between double quotes stands for itself, commas, stars
and ampersands included; in it `\"` is a quote, and every other backslash stays, as regular expressions need it. The
module of a FUNCTION may be a path, which may have commas.
"""

import functools
import re
from collections.abc import Callable, Collection
from typing import NamedTuple

from jaxtrain.config import ConfigError

_WEIGHT = r"(?:\*(?P<weight>[+-]?(?:\d[\d.]*|\.\d+)(?:e[+-]?\d+)?))?"
_FUNCTION = re.compile(rf"(?P<name>.+?:[^\W\d][\w.]*?)(?:\?(?P<options>format=\w+))?{_WEIGHT}", re.DOTALL)
_SHIPPED = re.compile(rf"(?P<name>\w+)(?:\?(?P<options>[^*,]*))?{_WEIGHT}", re.DOTALL)
_QUOTED = re.compile(r'(?<=[?&])(\w+=)"((?:[^"\\]|\\.)*)"(?=[&*,]|$)', re.DOTALL)
_FIRST_MASK = 0xF0000  # private characters stand for quoted values while a text is taken apart
_MASK = re.compile(r"[\U000F0000-\U000FFFFD]")


class RewardPart(NamedTuple):
    """One function of a reward: its name, its options in order, its weight."""

    name: str
    options: tuple[tuple[str, str], ...]
    weight: float


def parts(text: str, shipped: Collection[str], label: str) -> list[RewardPart]:
    """The functions that REWARDS names; empty where the text has another form. `shipped` are the names with options.

    Raises ConfigError, which starts with `label`, for a weight that is not a number and for an option that is none.
    """
    values: list[str] = []

    def mask(match: re.Match) -> str:
        values.append(match[2].replace('\\"', '"'))
        return match[1] + chr(_FIRST_MASK + len(values) - 1)

    matches, left = split(_QUOTED.sub(mask, text), functools.partial(_match, shipped=shipped))
    result = [_part(match, values, label) for match in matches]
    return [] if left else result


def split(text: str, match: Callable[[str], re.Match | None]) -> tuple[list[re.Match], str]:
    """(the matches of the parts between commas, the end that does not match); a part may have commas, too."""
    matches, pending = [], ""
    for piece in text.split(","):
        pending = f"{pending},{piece}" if pending else piece
        if found := match(pending.strip()):
            matches.append(found)
            pending = ""
    return matches, pending


def _match(text: str, shipped: Collection[str]) -> re.Match | None:
    match = _SHIPPED.fullmatch(text)
    return match if match and match["name"] in shipped else _FUNCTION.fullmatch(text)


def _part(match: re.Match, values: list[str], label: str) -> RewardPart:
    options = []
    for piece in match["options"].split("&") if match["options"] is not None else ():
        key, _, value = piece.partition("=")
        if not key or not _plain(value, values):
            raise ConfigError(
                f'{label}: {_plain(piece, values)} is not an option; write key=value or key="value"'
            )
        options.append((key, _plain(value, values)))
    if len({key for key, _ in options}) < len(options):
        raise ConfigError(f"{label}: an option of {match['name']} stands twice")
    try:
        weight = float(match["weight"] or "1")
    except ValueError as error:
        raise ConfigError(f"{label}: the weight *{match['weight']} is not a number") from error
    return RewardPart(_plain(match["name"], values), tuple(options), weight)


def _plain(text: str, values: list[str]) -> str:
    """The text with its quoted values back."""
    return _MASK.sub(lambda match: values[ord(match[0]) - _FIRST_MASK], text)
