"""Flags of judges and machines that contradict each other."""

import pytest

from jaxtrain.config import ConfigError
from jaxtrain.inference.config import MachineFlags, QualityFlags


@pytest.mark.parametrize("judge", ["", "gold", "correct", "rewards:polite", "rewards.py:polite"])
def test_a_function_is_no_llm_judge(judge):
    assert not QualityFlags(judge=judge).is_llm_judge()


@pytest.mark.parametrize(
    "judge", ["runs/sft", "runs/sft@20", "hf:models/llama", "http://localhost:8000/v1?model=m"]
)
def test_a_run_and_an_endpoint_are(judge):
    assert QualityFlags(judge=judge, votes=3, soft=True, rubric="Be right.").is_llm_judge()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"judge": "gold", "votes": 3}, "--votes: acts only where a model is the --judge"),
        ({"rubric": "x", "soft": True}, "--rubric, --soft: acts only"),
        ({"min_score": 3.0}, "--min_score: acts only with --judge"),
        ({"agreement": 1.5}, "a share, at most 1"),
        ({"max_chars": 3, "min_chars": 4}, "--max_chars=3: below --min_chars=4"),
    ],
)
def test_flags_that_do_nothing_are_refused(flags, message):
    with pytest.raises(ConfigError, match=message):
        QualityFlags(**flags)


def test_a_mesh_is_checked_at_once():
    with pytest.raises(ConfigError):
        MachineFlags(mesh="nowhere:2")
