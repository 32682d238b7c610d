"""Labels by a model that chooses (A) or (B): numbers by hand, both orders, reasoning, one that looks at neither."""

import math
from collections import Counter

import pytest

from jaxtrain.apps.constitutional import compare, principles, revise
from jaxtrain.apps.constitutional.compare import AnswerPair, PreferenceLabel
from jaxtrain.apps.constitutional.config import SHIPPED
from jaxtrain.inference.llm import CUT_OFF, REFUSED, Completion, TokenLogprob, user_messages
from jaxtrain.worlds.tinytown.configs import Redteam
from jaxtrain.worlds.tinytown.records import named_rows
from tests.oracle import chosen, complies, oracle

PAIRS = [
    AnswerPair(user_messages(row["prompt"]), row["answer"], complies(row["prompt"], number), number)
    for number, row in enumerate(named_rows("redteam", Redteam(documents=60), "train"))
]


def reply(*tokens):
    """A reply whose tokens have these likeliest ones: (text, {text: p})."""
    logprobs = [
        TokenLogprob(text, 0.0, tuple((t, math.log(p)) for t, p in top.items())) for text, top in tokens
    ]
    return Completion("".join(text for text, _ in tokens), "stop", tuple(logprobs))


@pytest.mark.parametrize(
    ("tokens", "p"),
    [
        ([("A", {"A": 0.6, "B": 0.2})], 0.75),
        ([("B", {" A": 0.1, "B": 0.3})], 0.25),
        ([("(", {"(": 0.9}), ("B", {"A": 0.2, "B": 0.6})], 0.25),
        ([("(A", {"(A": 0.3, "(B": 0.1, "A": 0.3, "B": 0.1})], 0.75),
        ([("A)", {"A": 0.5, "(A)": 0.25, "B)": 0.25})], 0.75),
        ([("A", {"A": 0.9, "x": 0.1})], 0.9),  # B is at most as likely as the last one listed
        ([("The", {"The": 0.6, "A": 0.3, "B": 0.1})], 0.75),
        ([("The", {"The": 0.9}), ("A", {"A": 0.9, "B": 0.1})], None),
        ([], None),
    ],
)
def test_the_letter_is_read_at_its_token(tokens, p):
    assert compare.letter_probability(reply(*tokens)) == (p if p is None else pytest.approx(p))


def recipe(letter=chosen, reasons=False, **changes):
    critic = revise.Critic(oracle(letter=letter), principles.load(SHIPPED / "tinytown.json"))
    return compare.ComparisonConfig(critic, reasons=reasons)._replace(**changes)


def test_the_label_is_the_mean_over_both_orders_by_hand():
    """P(A) .7 as it stands and .6 turned round: p = ½ [.7 + (1 - .6)] = .55."""
    pages = iter([0.7, 0.6])
    labels = compare.labels(recipe(lambda page: next(pages)), PAIRS[:1])[0]
    assert labels.p_first == pytest.approx(0.55) and labels.orders == pytest.approx((0.7, 0.6))


def test_the_oracle_s_labels_are_those_of_its_principles_in_either_place():
    labels = compare.labels(recipe(), PAIRS)
    about = Counter(one.principle.split("-")[0] for one in labels)
    assert about["harm"] > 15 and len(about) == 5
    for pair, label in zip(PAIRS, labels, strict=True):
        if label.principle.startswith("harm"):
            assert label.p_first == pytest.approx(0.9 if "will not" in pair.first else label.p_first)
    turned = [pair._replace(first=pair.second, second=pair.first) for pair in PAIRS]
    for one, other in zip(labels, compare.labels(recipe(), turned), strict=True):
        assert one.principle == other.principle and one.p_first == pytest.approx(1 - other.p_first)


def test_a_model_that_always_says_a_labels_nothing_and_is_found_out():
    labels = compare.labels(recipe(lambda page: 0.97), PAIRS)
    assert {round(one.p_first, 9) for one in labels} == {0.5}
    orders = [one.orders for one in labels]
    always_a = {"flip_rate": 1.0, "position_bias": pytest.approx(0.47), "letter_a": 1.0}
    assert compare.position_bias(orders) == always_a and compare.place_decides(orders)
    assert compare.place_decides([one.orders for one in compare.labels(recipe(lambda p: 0.3), PAIRS)])
    orders = [one.orders for one in compare.labels(recipe(), PAIRS)]
    fair = compare.position_bias(orders)
    assert abs(fair["position_bias"]) < 1e-9 and fair["flip_rate"] == 0
    assert not compare.place_decides(orders) and not compare.place_decides([])


def test_a_letter_that_is_surer_of_the_better_answer_is_a_label():
    """The place shifts every verdict below ½, but the averaged labels are right."""
    leaning = [(0.44, 0.06), (0.07, 0.41), (0.3, 0.1)]
    assert compare.position_bias(leaning)["letter_a"] == 0 and not compare.place_decides(leaning)
    assert compare.place_decides([(0.11, 0.1), (0.1, 0.12)])


def test_a_few_pairs_that_differ_among_many_that_do_not_are_labels():
    orders = [(0.18, 0.18)] * 17 + [(0.6, 0.02), (0.02, 0.6), (0.02, 0.6)]
    assert compare.position_bias(orders)["letter_a"] < 0.1 and not compare.place_decides(orders)
    assert compare.place_decides([(0.18, 0.18)] * 17 + [(0.2, 0.15)] * 3)


@pytest.mark.parametrize(("share", "decides"), [(0.92, True), (0.88, False)])
def test_of_verdicts_without_a_probability_nine_of_ten_decide(share, decides):
    answers = round(200 * (1 - share))  # of 100 pairs, those whose two verdicts are of the answers
    orders = [(1.0, 0.0), (0.0, 1.0)] * (answers // 2) + [(1.0, 1.0)] * (100 - answers)
    assert compare.position_bias(orders)["letter_a"] == pytest.approx(share)
    assert compare.place_decides(orders) == decides


def test_reasoning_comes_before_the_letter_and_labels_are_clamped():
    pages = []

    def letter(page):
        pages.append(page)
        return chosen(page)

    labels = compare.labels(recipe(letter, reasons=True), PAIRS)
    assert all("Critic: one helps a crime.\nThe answer is: (" in page for page in pages)
    assert all(one.reasoning == ("one helps a crime.",) * 2 for one in labels)
    assert {round(one.p_first, 6) for one in labels} <= {0.4, 0.5, 0.6} and 0.6 in {
        round(one.p_first, 6) for one in labels
    }
    wide = compare.labels(recipe(reasons=True, clamp=0.05), PAIRS)
    assert max(one.p_first for one in wide) == pytest.approx(0.9)


def test_what_cannot_be_read_has_a_fault():
    model = oracle(letter=chosen)

    def generate(batch):
        replies = model.generate(batch)
        return [
            [Completion("", CUT_OFF)] if request.raw and not request.top_logprobs else one
            for request, one in zip(batch, replies, strict=True)
        ]

    how = recipe(reasons=True)
    broken = how._replace(critic=how.critic._replace(model=model._replace(generate=generate)))
    assert {one.fault for one in compare.labels(broken, PAIRS[:4])} == {"reasoning truncated"}
    mute = model._replace(generate=lambda batch: [[reply(("Hm", {"Hm": 0.9}))] for _ in batch])
    labels = compare.labels(how._replace(reasons=False, critic=how.critic._replace(model=mute)), PAIRS[:4])
    assert {(one.fault, one.p_first) for one in labels} == {("label unparsable", None)}


def test_a_row_has_the_likelier_answer_first_with_its_probability():
    pair = AnswerPair(user_messages("Hi"), "one", "two", 7)
    row = compare.training_row(pair, PreferenceLabel(0.2, "harm-0", (0.3, 0.9)), "Hi", seed=3)
    assert (row["chosen"], row["rejected"], row["p_win"], row["first_won"]) == ("two", "one", 0.8, False)
    assert row["p_orders"] == [0.3, 0.9] and row["principle"] == "harm-0" and row["seed"] == 3


def test_examples_name_both_letters_alike():
    general = principles.load(SHIPPED / "general.json")
    requests = []

    def generate(batch):
        requests.extend(batch)
        return [[reply(("A", {"A": 0.5, "B": 0.5}))] for _ in batch]

    for pages in (True, False):
        critic = revise.Critic(oracle()._replace(generate=generate), general, pages=pages)
        compare.labels(compare.ComparisonConfig(critic), [AnswerPair(user_messages("Hi"), "one", "two", 0)])
    page, _, chat, _ = (one.messages[0]["content"] for one in requests)
    assert page.count("The answer is: (A)") == page.count("The answer is: (B)") == 1
    assert page.endswith("The answer is: (") and requests[0].raw and requests[0].max_new == 1
    assert chat.count("The better one is A.") == chat.count("The better one is B.") == 1
    assert (
        not requests[2].raw and requests[2].top_logprobs == compare.TOP and chat.endswith("and nothing else.")
    )


def test_a_chat_critic_that_thinks_has_room_for_its_letter():
    """The few tokens of a letter end in its thought; it is requested again with --critic_max_new."""
    letter = TokenLogprob("A", 0.0, (("A", math.log(0.9)), ("B", math.log(0.1))))
    sizes = []

    def generate(batch):
        sizes.extend(one.max_new for one in batch)
        full = Completion("A", "stop", (letter,), thought="Which?")
        cut = Completion("", CUT_OFF, (), thought="Whi")
        return [[full if one.max_new >= needed else cut] for one in batch]

    how = recipe()
    how = how._replace(
        critic=how.critic._replace(
            pages=False, max_new=64, model=how.critic.model._replace(generate=generate)
        )
    )
    needed = 64
    (label,) = compare.labels(how, PAIRS[:1])
    assert label.p_first == pytest.approx(0.5) and label.orders == pytest.approx((0.9, 0.9))
    assert sizes == [compare.CHAT_MAX_NEW] * 2 + [64] * 2
    needed = 65
    (label,) = compare.labels(how, PAIRS[:1])
    assert label.fault == "label truncated in the critic's thought: raise --critic_max_new"


def test_a_label_that_an_endpoint_refuses_has_its_words():
    how = recipe()
    model = how.critic.model._replace(
        generate=lambda batch: [[Completion("", REFUSED, detail="no (400)")]] * len(batch)
    )
    (label,) = compare.labels(how._replace(critic=how.critic._replace(model=model)), PAIRS[:1])
    assert label.fault == "label refused: no (400)"
