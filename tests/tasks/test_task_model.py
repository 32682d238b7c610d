"""How texts are cut into contexts and continuations, by hand and as lm-eval cuts them."""

import numpy as np
import pytest

from jaxtrain.config import Failure
from jaxtrain.data.tokenizer import ByteTokenizer
from jaxtrain.tasks import task_model
from jaxtrain.tasks.task_model import TaskModel, TextPrompt

BYTES = ByteTokenizer()


def model(context=0, encode=BYTES.encode, **more):
    return TaskModel(encode, BYTES.bos, context, lambda pairs: [], lambda prompts: [], **more)


def text(ids):
    return "".join("^" if i == BYTES.bos else chr(i) for i in ids)


@pytest.mark.parametrize(
    ("context", "continuation", "cut"),
    [
        ("a b", " c", ("^a b", " c")),
        ("a b ", "c", ("^a b", " c")),
        ("a:\n", "c", ("^a:", "\nc")),
        ("", "Hi", ("^", "Hi")),
        ("  ", "Hi", ("^", "  Hi")),
    ],
)
def test_white_space_belongs_to_the_continuation(context, continuation, cut):
    assert tuple(map(text, task_model.tokenize_pair(model(), context, continuation))) == cut


def test_a_context_that_is_too_long_loses_its_beginning_and_is_counted():
    counted = []
    short = model(4, count_cut=lambda: counted.append(1))
    assert tuple(map(text, task_model.tokenize_pair(short, "ab", "cd"))) == ("^ab", "cd")
    assert not counted, "the last token is predicted, and not read"
    assert tuple(map(text, task_model.tokenize_pair(short, "abc", "de"))) == ("abc", "de")
    assert len(counted) == 1
    with pytest.raises(Failure, match="a continuation of 5 tokens does not fit a context of 4"):
        task_model.tokenize_pair(short, "a", "bcdef")


def test_a_token_that_spans_the_cut_is_the_continuations():
    ids = {"ab": [7, 8], "abc": [7, 9], "x": [5], "xy": [6]}
    merging = model(encode=lambda texts: [np.array(ids[one], np.int32) for one in texts])
    context, own = task_model.tokenize_pair(merging, "ab", "c")
    assert context.tolist() == [BYTES.bos, 7] and own.tolist() == [9]
    context, own = task_model.tokenize_pair(merging, "x", "y")
    assert context.tolist() == [BYTES.bos] and own.tolist() == [6]


def test_windows_predict_each_token_once_and_the_last_one_reads_what_is_before_it():
    pairs = [tuple(map(text, pair)) for pair in task_model.windows(model(4), "abcdefghij")]
    assert pairs == [("^", "abcd"), ("d", "efgh"), ("fgh", "ij")]
    assert [tuple(map(text, pair)) for pair in task_model.windows(model(), "abc")] == [("^", "abc")]
    assert task_model.windows(model(4), "") == []


@pytest.mark.parametrize("length", [1, 3, 4, 5, 8, 11])
def test_windows_are_lm_evals(length):
    utils = pytest.importorskip("lm_eval.utils", reason="the extra lm-eval is not installed")
    ids = list(range(97, 97 + length))
    theirs = utils.get_rolling_token_windows(ids, BYTES.bos, max_seq_len=4, context_len=1)
    expected = [tuple(map(list, utils.make_disjoint_window(pair))) for pair in theirs]
    ours = task_model.windows(model(4), "".join(map(chr, ids)))
    assert [(context.tolist(), own.tolist()) for context, own in ours] == expected


def test_requests_for_text_take_lm_evals_options():
    assert task_model.text_prompt(3, "Q", {"until": "\n", "max_gen_toks": 5}) == TextPrompt(
        "Q", 5, 0.0, ("\n",), 3
    )
    free = task_model.text_prompt(0, "Q", {"do_sample": True, "temperature": 0.5})
    assert free == TextPrompt("Q", task_model.LONGEST, 0.5)
    assert task_model.text_prompt(0, "Q", {"temperature": 0.5}).temperature == 0, "without do_sample: greedy"


def test_a_dry_model_answers_everything_alike():
    dry = task_model.dry_model(model())
    ((logps, likeliest),) = dry.logps([task_model.tokenize_pair(dry, "a", "bc")])
    assert logps.tolist() == [-1, -1] and not likeliest.any()
    assert dry.generate([TextPrompt("a"), TextPrompt("b")]) == ["", ""]
