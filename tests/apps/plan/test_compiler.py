"""Requests go to a process of their own, and come back in order, as errors too."""

import os

import pytest

from experiments import plan
from jaxtrain import flags
from jaxtrain.apps.plan import compiler, request, topologies
from jaxtrain.config import ConfigError, Failure


def made(stage="pretrain", chip="v5e:3x3"):
    return request.PlanRequest(stage, flags.from_flags(plan.stage_class("pretrain"), []), chip)


KNOWN = topologies.parse("v5e:2x2")


def test_a_plan_that_cannot_be_is_an_answer_and_the_next_is_still_made(monkeypatch):
    # The chip of the requests is legal here, and in the process that compiles not.
    monkeypatch.setattr(compiler.topologies, "parse", lambda text: KNOWN)
    first, second = compiler.compile_all([made(), made(chip="v5p:3x3x3")])
    assert isinstance(first, ConfigError) and "there is no v5e:3x3" in str(first)
    assert isinstance(second, ConfigError) and "there is no v5p:3x3x3" in str(second)


def test_a_process_that_dies_is_a_failure_with_its_last_words(monkeypatch):
    monkeypatch.setattr(compiler.topologies, "parse", lambda text: KNOWN)
    monkeypatch.setattr(
        compiler.topologies, "environment", lambda topology: {**os.environ, "JAX_PLATFORMS": "none"}
    )
    with pytest.raises(
        Failure, match=r"--stage=nope --chip=v5e:2x2: the process that compiles ended with status 1"
    ):
        compiler.compile_one(made(stage="nope", chip="v5e:2x2"))


def test_chips_of_two_compilers_are_refused():
    with pytest.raises(ValueError, match="several compilers"):
        list(compiler.compile_all([made(chip="v5e:2x2"), made(chip="h100:8")]))


def test_no_request_starts_no_process():
    assert list(compiler.compile_all([])) == []
