"""Reviews as tokens, the small language models on them, and RL against a reward of them."""

import numpy as np
import pytest

from experiments.papers import review_models
from experiments.papers.review_models import END, LENGTH, WORDS, LmSize
from jaxtrain.worlds.tinytown import reviews

TINY = LmSize(1, 16, 2, 16, steps=2, batch=4)
TEXT = "The soup was very lovely. The room was dull."
TOKENS = [WORDS.index(word) for word in ("soup", "very", "lovely", "room", "dull")]


@pytest.fixture(scope="module")
def policy():
    return review_models.trained(TINY, 0)


def test_a_review_is_its_words_and_back():
    assert review_models.encode(TEXT) == [*TOKENS, END]
    assert reviews.render_review(review_models.remarks_of([*TOKENS, END, 0, 0])) == TEXT
    corpus = review_models.corpus(0, "x", 50)
    assert corpus.shape == (50, LENGTH) and (corpus == END).sum(1).tolist() == [1] * 50
    assert (review_models.corpus(0, "y", 50) != corpus).any()
    assert all(review_models.remarks_of(row) for row in corpus.tolist())


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["soup"],
        ["lovely"],
        ["soup", "very"],
        ["soup", "very", "very", "lovely"],
        ["soup", "room", "lovely"],
    ],
)
def test_what_is_no_review_is_worth_what_the_world_says(words):
    tokens = [WORDS.index(word) for word in words]
    assert review_models.remarks_of([*tokens, END]) is None
    assert review_models.scores(review_models.padded([[*tokens, END]])).tolist() == [review_models.INVALID]
    assert reviews.review_gold(" ".join(words)) == review_models.INVALID


def test_a_review_without_its_end_is_none():
    assert review_models.remarks_of(TOKENS) is None
    assert review_models.scores(np.array([[*TOKENS, END]])) == pytest.approx([reviews.review_gold(TEXT)])


def test_sentiment_is_that_of_any_text():
    def ids(*words):
        return [WORDS.index(word) for word in words]

    rows = [
        ids("soup", "very", "lovely", "</s>"),  # 1.5 of very times 1.4 of lovely
        ids("bread", "not", "soup", "very", "lovely", "room"),  # broken, and cut off before its end
        ids("very", "awful", "</s>", "room", "awful"),
    ]
    assert review_models.text_of(rows[1]) == "The bread was not The soup was very lovely. The room was"
    wanted = [1 / (1 + np.exp(-2.1))] * 2 + [0.5]
    assert review_models.positivity(review_models.padded(rows)) == pytest.approx(wanted)


def test_the_batch_of_reviews():
    batch = review_models.batch_of(review_models.padded([[*TOKENS, END], [5, 30, END]]), np.array([2, 0]))
    assert batch["tokens"][0, :7].tolist() == [0, *TOKENS, END]
    assert batch["mask"].sum(1).tolist() == [4, 3] and batch["mask"][0, :7].tolist() == [0, 0, 1, 1, 1, 1, 0]
    assert batch["length"].tolist() == [6, 3] and batch["segments"].sum(1).tolist() == [6, 3]
    pairs = review_models.batch_of(
        review_models.padded([[*TOKENS, END], [5, 30, END]])[None], np.array([[0, 1]])
    )
    assert pairs["mask"].shape == (1, 2, LENGTH) and pairs["mask"].sum(-1).tolist() == [[6, 2]]


def test_a_sample_goes_on_from_its_prompt(policy):
    sample = review_models.sampler(policy.model)
    prompts = np.array([[5, 0, 0], [6, 10, 0]], np.int32), np.array([1, 2], np.int32)
    out = sample(policy.params, prompts, 3)
    assert out.shape == (2, LENGTH) and out[0, 0] == 5 and out[1, :2].tolist() == [6, 10]
    assert (sample(policy.params, prompts, 3) == out).all() and (
        sample(policy.params, prompts, 4) != out
    ).any()
    greedy = sample(policy.params, (prompts[0][:1], prompts[1][:1]), 3, 0.0)
    batch = review_models.batch_of(greedy, prompts[1][:1])
    from jaxtrain.ops.logprobs import logits

    best = np.asarray(
        logits(policy.model.hidden(policy.params, batch), policy.model.head(policy.params))
    ).argmax(-1)
    inside = batch["mask"][0] > 0
    assert (best[0][inside] == greedy[0][inside]).all()


def test_the_kl_is_that_of_the_sequences(policy):
    import jax

    other = jax.tree.map(lambda x: x * 1.3, policy.params)
    sample = review_models.sampler(policy.model)
    rows = review_models.batch_of(review_models.many(sample, other, 4_096, 5))
    of = review_models.divergence(policy.model)
    assert np.asarray(of(policy.params, policy.params, rows)).tolist() == [0.0] * 4_096
    logps = review_models.token_logps(policy.model)
    ratio = ((logps(other, rows) - logps(policy.params, rows)) * rows["mask"]).sum(-1)
    exact = np.asarray(of(other, policy.params, rows))
    assert exact.mean() > 0.02
    assert exact.mean() == pytest.approx(float(ratio.mean()), abs=4 * float(ratio.std()) / 64)


def test_rloo_raises_the_reward_and_spends_kl(policy):
    target = WORDS.index("lovely")

    def reward(tokens):
        return (tokens == target).sum(1).astype(float)

    sample = review_models.sampler(policy.model)
    log = review_models.rloo(
        policy,
        sample,
        reward,
        lambda tokens: -reward(tokens),
        batch=64,
        lr=1e-2,
        iterations=40,
        kl_end=0.2,
        seed=0,
    )
    assert log["kl"][0] == 0 and log["kl"][-1] >= 0.2 > max(log["kl"][:-1]), "it ends where the KL is reached"
    assert log["iteration"] == [5 * i for i in range(len(log["kl"]))] and log["iteration"][-1] < 40
    assert log["proxy"][-1] > log["proxy"][0] + 0.5 and log["gold"] == [-x for x in log["proxy"]]
