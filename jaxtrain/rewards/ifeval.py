"""Rewards of completions that follow the verifiable instructions of their record, as IFEval's records have them."""

import importlib.util
import json
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtrain.rewards.instructions import BadInstruction, follows
from jaxtrain.rewards.verifier import Options, Verification, Verifier

NO_INSTRUCTIONS, BAD_INSTRUCTION = "no_instructions", "bad_instruction"
SCORES = ("all", "share")
EXTRA = "needs the package py3langid; pip install 'jaxtrain[filters]'"


def instructions_of(kinds: Any, arguments: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """(kind, arguments) of each instruction of a record; either column may be JSON. Raises BadInstruction."""
    try:
        kinds = json.loads(kinds) if isinstance(kinds, str) else kinds
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        arguments = [{}] * len(kinds) if arguments is None else arguments
        pairs = [
            (kind, json.loads(one) if isinstance(one, str) else (one or {}))
            for kind, one in zip(kinds, arguments, strict=True)
        ]
    except (ValueError, TypeError) as error:
        raise BadInstruction(f"kinds and arguments are not two lists of one length: {error}") from error
    if not all(isinstance(kind, str) and isinstance(one, Mapping) for kind, one in pairs):
        raise BadInstruction("a kind is not text, or its arguments are no fields")
    return pairs


def _verified(
    completions: Sequence[str], columns: Mapping[str, list], options: Options
) -> list[Verification]:
    """1 for a completion that follows all instructions of its record, or the share of them that it follows."""
    rows = zip(completions, columns["instructions"], columns["arguments"], strict=True)
    return [_verification(text, kinds, arguments, options["score"]) for text, kinds, arguments in rows]


def _verification(text: str, kinds: Any, arguments: Any, score: str) -> Verification:
    if kinds is None or kinds == []:
        return Verification(None, NO_INSTRUCTIONS, "the record has no list of them")
    text = text.rpartition("</think>")[2]
    try:
        followed = [follows(text, kind, one) for kind, one in instructions_of(kinds, arguments)]
    except BadInstruction as error:
        return Verification(None, BAD_INSTRUCTION, str(error))
    return Verification(sum(followed) / len(followed) if score == "share" else float(all(followed)))


def _refuse(options: Options) -> str:
    if options["score"] not in SCORES:
        return f"score={options['score']}: write one of {', '.join(SCORES)}"
    return "" if importlib.util.find_spec("py3langid") else EXTRA


REWARD = Verifier(
    check=_verified,
    options={"instructions": "instruction_id_list", "arguments": "kwargs", "score": "all"},
    columns=("instructions", "arguments"),
    faults=(NO_INSTRUCTIONS, BAD_INSTRUCTION),
    refuse=_refuse,
)
