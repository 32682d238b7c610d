"""Where a student starts beside its teacher, and what its first step must report."""

from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.data.tokenizer import ByteTokenizer
from jaxtrain.distillation import teacher
from jaxtrain.stages.init_from import InitFrom
from tests import tiny

ARCH = tiny.shrink("llama2-7b", layers=1, vocab=320, max_len=16)


def flags(name="runs/teacher", stored=False, seq_len=16):
    return SimpleNamespace(
        loss=SimpleNamespace(teacher=name, stored_logprobs=lambda: stored),
        data=config.Dialogs(seq_len=seq_len),
        model=config.Model(dtype="float32"),
    )


def start(tokenizer=None, origins=()):
    empty = dict.fromkeys(InitFrom._fields)
    return InitFrom(**{**empty, "arch": ARCH, "tokenizer": tokenizer, "origins": origins})


@pytest.fixture
def origin(monkeypatch):
    origin = start(ByteTokenizer(), origins=("teacher",))
    monkeypatch.setattr(teacher.init_from, "load_run", lambda text, flag, causal: origin)
    return origin


def test_a_student_from_nothing_takes_the_teachers_tokenizer(origin):
    student, source = teacher.student_init(flags(), start())
    assert student.tokenizer is origin.tokenizer and source is origin


def test_teachers_that_do_not_fit_the_student_are_refused(origin):
    other = SimpleNamespace(fingerprint="another")
    with pytest.raises(ConfigError, match=r"tokenizer is not the student's.*run sample.*run sft"):
        teacher.student_init(flags(), start(other))
    with pytest.raises(ConfigError, match="--seq_len=17: the context of --teacher=runs/teacher is 16"):
        teacher.student_init(flags(seq_len=17), start(ByteTokenizer()))
    with pytest.raises(ConfigError, match="stored completions bring no tokenizer"):
        teacher.student_init(flags(stored=True), start())
    student = start(ByteTokenizer())
    assert teacher.student_init(flags(stored=True), student) == (student, None)
    assert teacher.load(flags(), None, None, None) is None


def test_a_student_that_is_its_teacher_starts_at_divergence_0(origin):
    same = start(ByteTokenizer(), origins=("teacher",))
    assert teacher.expected_at_start(same, origin, jnp.float32) == {"divergence": (0.0, 1e-3)}
    assert teacher.expected_at_start(start(ByteTokenizer()), origin, jnp.float32) is None
    assert teacher.expected_at_start(same, None, jnp.float32) is None
