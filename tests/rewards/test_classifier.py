"""The reward of a sequence classifier: its options, what it scores, and which texts it cuts."""

import math

import numpy as np
import pytest
from tokenizers import Tokenizer

from jaxtrain.config import ConfigError
from jaxtrain.models import classifier_config, text_classifier
from jaxtrain.rewards import functions
from jaxtrain.rewards.function_args import Scored
from jaxtrain.rl import watched_reward
from tests import hf_classifiers
from tests.hf_classifiers import WORDS

PROMPTS = ("the film", "i")
COMPLETIONS = (" was really very good", "t is bad")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return hf_classifiers.write(tmp_path_factory.mktemp("classifier"))


def conversations(prompts=PROMPTS):
    return [[{"role": "user", "content": prompt}] for prompt in prompts]


def scores(text, prompts=PROMPTS, completions=COMPLETIONS):
    scored = Scored(conversations(prompts), list(completions), [{}] * len(completions))
    return functions.scores(functions.resolve(text), scored)


def logits(folder, texts):
    """The classifier's logits of texts, one by one."""
    cfg = classifier_config.read(folder)
    params = text_classifier.read(folder, cfg)
    known = dict(zip(WORDS, range(len(WORDS)), strict=True))
    return np.concatenate(
        [
            text_classifier.logits(params, np.array([[0, *map(known.get, text.split()), 2]]), np.array([length]), cfg)
            for text in texts
            for length in [len(text.split()) + 2]
        ]
    )  # fmt: skip


def test_prompt_and_completion_are_one_text(folder):
    own = logits(folder, ["the film was really very good", "it is bad"])
    found = scores(f"classifier?model=hf:{folder}&label=POSITIVE").total
    np.testing.assert_allclose(found, own[:, 1], atol=1e-5)
    alone = logits(folder, ["was really very good"])
    found = scores(
        f"classifier?model=hf:{folder}&label=positive&text=completion", PROMPTS[:1], COMPLETIONS[:1]
    )
    np.testing.assert_allclose(found.total, alone[:, 1], atol=1e-5)


def test_scores_are_logits_probabilities_or_log_odds(folder):
    own = logits(folder, ["the film was really very good", "it is bad"])
    odds = own[:, 1] - own[:, 0]
    name = f"classifier?model=hf:{folder}&label=POSITIVE"
    np.testing.assert_allclose(scores(f"{name}&score=log_odds").total, odds, atol=1e-5)
    sigmoid = [1 / (1 + math.exp(-x)) for x in odds]
    np.testing.assert_allclose(scores(f"{name}&score=probability").total, sigmoid, atol=1e-5)
    both = scores(
        f"{name}&score=probability,classifier?model=hf:{folder}&label=NEGATIVE&score=probability&name=bad*2"
    )
    np.testing.assert_allclose(both.by_function["bad"], 1 - np.array(sigmoid), atol=1e-5)
    np.testing.assert_allclose(both.total, 2 - np.array(sigmoid), atol=1e-5)


def test_three_labels_share_their_probability(tmp_path):
    folder = hf_classifiers.write(tmp_path, "bert", labels=("a", "b", "c"))
    name = f"classifier?model=hf:{folder}&score=probability&label="
    total = sum(scores(name + label).total for label in "abc")
    np.testing.assert_allclose(total, 1, atol=1e-5)


def test_labels_that_do_not_exclude_each_other_are_sigmoids(tmp_path):
    folder = hf_classifiers.write(tmp_path, problem_type="multi_label_classification")
    found = scores(f"classifier?model=hf:{folder}&label=NEGATIVE&score=log_odds").total
    own = logits(folder, ["the film was really very good", "it is bad"])
    np.testing.assert_allclose(found, own[:, 0], atol=1e-5)


def test_the_only_label_need_not_be_named(tmp_path):
    folder = hf_classifiers.write(tmp_path, labels=("reward",))
    assert np.isfinite(scores(f"classifier?model=hf:{folder}").total).all()


def test_a_text_beyond_the_context_is_cut_and_counted(folder):
    long = " ".join(["fun"] * 40)
    found = scores(
        f"classifier?model=hf:{folder}&label=POSITIVE", ("the film", "a"), (" was fun", " " + long)
    )
    assert found.logs.metrics["classifier/truncated"] == [0.0, 1.0]
    kept = logits(folder, ["a " + " ".join(["fun"] * 19)])  # 22 tokens with <s> and </s>
    np.testing.assert_allclose(found.total[1], kept[0, 1], atol=1e-5)


def test_a_score_does_not_depend_on_the_others(folder):
    name = f"classifier?model=hf:{folder}&label=POSITIVE"
    many = [" was good" + " very" * (i % 7) for i in range(40)]
    together = scores(name, ["the film"] * 40, many).total
    np.testing.assert_allclose(together[33:34], scores(name, ["the film"], many[33:34]).total, atol=1e-5)


def test_the_same_classifier_under_another_name_is_the_same_reward(folder):
    one, same, other = (
        functions.resolve(f"classifier?model=hf:{folder}&label=POSITIVE{more}")
        for more in ("", "&name=sentiment*2", "&score=probability")
    )
    assert watched_reward.same_functions(one, same)
    assert not watched_reward.same_functions(one, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", r"classifier\?model=hf:DIR"),
        ("?model={0}", r"classifier\?model=hf:DIR"),
        ("?model=hf:{0}", "label=\\?: the classifier has NEGATIVE, POSITIVE; name one"),
        ("?model=hf:{0}&label=GOOD", "label=GOOD: the classifier has NEGATIVE, POSITIVE"),
        ("?model=hf:{0}&label=POSITIVE&score=odds", "score=odds: choose one of logit, probability, log_odds"),
        ("?model=hf:{0}&label=POSITIVE&text=prompt", "text=prompt: choose one of whole, completion"),
        ("?model=hf:{0}&label=POSITIVE&name=a-b", "name=a-b"),
        ("?model=hf:{0}&labels=POSITIVE", "classifier has no option labels; it has model, label"),
        ("?model=hf:{0}/none&label=POSITIVE", "no such file"),
    ],
)
def test_mistakes_are_refused_before_anything_is_loaded(folder, options, message):
    with pytest.raises(ConfigError, match=message):
        functions.resolve("classifier" + options.format(folder))


def test_a_tokenizer_of_more_tokens_than_the_model_has_is_refused(tmp_path):
    folder = hf_classifiers.write(tmp_path)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens(["one", "more"])
    tokenizer.save(str(folder / "tokenizer.json"))
    with pytest.raises(ConfigError, match=r"tokenizer\.json has 24 tokens, the model 22"):
        scores(f"classifier?model=hf:{folder}&label=POSITIVE")


def test_a_folder_without_a_readable_tokenizer_is_refused(tmp_path):
    folder = hf_classifiers.write(tmp_path)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"tokenizer\.json: cannot be read"):
        scores(f"classifier?model=hf:{folder}&label=POSITIVE")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match="save_pretrained"):
        functions.resolve(f"classifier?model=hf:{folder}&label=POSITIVE")
