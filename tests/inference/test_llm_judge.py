"""Judges: their prompts, how strictly completions are parsed, and measures of both orders."""

import math

import pytest

from jaxtrain.inference import llm_judge
from jaxtrain.inference.llm import (
    CUT_OFF,
    FILTERED,
    LLM,
    REFUSED,
    Completion,
    TokenLogprob,
    Usage,
    user_messages,
)
from jaxtrain.inference.llm_judge import JudgeCase, JudgeConfig, JudgePair
from jaxtrain.rewards import functions

MESSAGES = user_messages("What is 2 + 3?")


class Model:
    """A model whose replies are a function of the prompt and the number of the request for it."""

    def __init__(self, reply):
        self.reply, self.requests, self.counts = reply, [], {}

    def generate(self, requests):
        self.requests += requests
        return [[self.one(request) for _ in range(request.samples)] for request in requests]

    def one(self, request):
        text = request.messages[-1]["content"]
        n = self.counts[text] = self.counts.get(text, -1) + 1
        result = self.reply(text, n)
        return result if isinstance(result, Completion) else Completion(result, "stop")

    def judge(self, **how):
        return llm_judge.llm_judge(LLM("model", self.generate, True, Usage()), JudgeConfig(**how))


def test_a_score_is_requested_with_the_rubric_and_parsed_from_the_last_line():
    model = Model(lambda text, n: "Fine.\n\n**Score: 8**\n" if "Five" in text else "Score: 2.")
    result = model.judge(rubric="Be right.").score(
        [JudgeCase(MESSAGES, "Five."), JudgeCase(MESSAGES, "{Six}.")], 7
    )
    assert result.values == [8.0, 2.0] and result.counts == {"questions": 2, "malformed": 0, "unanswered": 0}
    text = model.requests[1].messages[-1]["content"]
    assert "Be right." in text and "User: What is 2 + 3?" in text and "{Six}." in text
    assert len({request.seed for request in model.requests}) == 2 and {
        request.temperature for request in model.requests
    } == {0.0}


MALFORMED = [
    "",
    "8",
    "Score: 11",
    "Score: 0",
    "Score: eight",
    "Score: 8/10",
    "Score: 8\nThat is all.",
    "Score: 7 or 8",
]


@pytest.mark.parametrize("text", MALFORMED)
def test_what_is_malformed_is_asked_again_and_counted(text):
    model = Model(lambda prompt, n: text if n < 2 else "Score: 5")
    result = model.judge().score([JudgeCase(MESSAGES, "Five.")], 0)
    assert result.values == [5.0] and result.counts["malformed"] == 2
    assert len({request.seed for request in model.requests}) == 3 and model.requests[1].temperature > 0
    never = Model(lambda prompt, n: text)
    result = never.judge().score([JudgeCase(MESSAGES, "Five.")], 0)
    assert result.values == [None] and result.counts == {"questions": 1, "malformed": 3, "unanswered": 1}


def test_the_median_of_the_votes_counts_and_only_missing_votes_are_asked_again():
    scores = ["Score: 9", "?", "Score: 1", "Score: 8"]
    model = Model(lambda prompt, n: scores[n])
    result = model.judge(votes=3, temperature=0.7).score([JudgeCase(MESSAGES, "Five.")], 0)
    assert result.values == [8.0] and [request.samples for request in model.requests] == [3, 1]
    with pytest.raises(ValueError, match="3 votes at temperature 0"):
        model.judge(votes=3)


def prefers(text, best):
    a, b = (text.index(f"Answer {letter}:") for letter in "AB")
    return "Verdict: A" if a < text.index(best) < b else "Verdict: B"


def test_both_orders_are_asked():
    model = Model(lambda text, n: prefers(text, "Five"))
    result = model.judge().compare(
        [JudgePair(MESSAGES, "Five.", "Six."), JudgePair(MESSAGES, "Seven.", "Five.")], 0
    )
    assert result.values == [1.0, 0.0] and result.counts["flip_rate"] == 0 == result.counts["position_bias"]
    assert len(model.requests) == 4


def test_a_model_that_likes_what_it_sees_first_has_a_bias_of_a_half_and_decides_nothing():
    result = (
        Model(lambda text, n: "Verdict: A").judge().compare([JudgePair(MESSAGES, "Five.", "Six.")] * 3, 0)
    )
    assert result.values == [0.5] * 3
    assert result.counts == {
        "questions": 6,
        "malformed": 0,
        "unanswered": 0,
        "flip_rate": 1.0,
        "position_bias": 0.5,
    }


def test_both_orders_by_hand():
    """(win when shown first, win of the other when shown first): agree, flip, half a tie, unread."""
    values, measures = llm_judge.both_orders([(1.0, 0.0), (1.0, 1.0), (1.0, 0.5), (None, 1.0), (0.0, 1.0)])
    assert values == [1.0, 0.5, 0.75, None, 0.0]
    assert measures == {"flip_rate": 1 / 4, "position_bias": 5.5 / 8 - 1 / 2}
    assert llm_judge.both_orders([(0.9, 0.6)], soft=True)[0] == [pytest.approx((0.9 + 0.4) / 2)]
    assert llm_judge.both_orders([(None, None)]) == ([None], {})


def test_the_majority_of_verdicts_counts_and_equal_camps_tie():
    replies = ["Verdict: A", "Verdict: A", "Verdict: B"]
    model = Model(lambda text, n: replies[n] if text.index("Five") < text.index("Six") else "Verdict: B")
    assert model.judge(votes=3, temperature=1.0).compare(
        [JudgePair(MESSAGES, "Five.", "Six.")], 0
    ).values == [1.0]
    assert llm_judge._majority([1.0, 0.0], soft=False) == 0.5 and llm_judge._majority([], soft=False) is None
    assert llm_judge._majority([1.0, 0.5, 0.5], soft=False) == 0.5


def tokens(*parts, **top):
    tokens = [TokenLogprob(part, -1.0, ()) for part in parts[:-1]]
    return (*tokens, TokenLogprob(parts[-1], -1.0, tuple((name, math.log(p)) for name, p in top.items())))


def test_log_probabilities_make_a_soft_verdict():
    sure = tokens(
        "Well. ", "Verdict", ":", " ", "A", **{"A": 0.6, " A": 0.1, "B": 0.2, "tie": 0.05, "C": 0.05}
    )
    soft = (0.7 + 0.5 * 0.05) / 0.95
    model = Model(lambda text, n: Completion("Well. Verdict:  A".replace(". ", ".\n"), "stop", sure))
    result = model.judge(top_logprobs=5).compare([JudgePair(MESSAGES, "Five.", "Six.")], 0)
    assert result.values == [pytest.approx((soft + 1 - soft) / 2)]
    assert result.counts["position_bias"] == pytest.approx(soft - 0.5) and model.requests[0].top_logprobs == 5


def test_log_probabilities_make_an_expected_score():
    result = tokens("Score", ": ", "8", **{"8": 0.5, "9": 0.25, "x": 0.25})
    model = Model(lambda text, n: Completion("Score: 8", "stop", result))
    (score,) = model.judge(top_logprobs=3).score([JudgeCase(MESSAGES, "Five.")], 0).values
    assert score == pytest.approx((8 * 0.5 + 9 * 0.25) / 0.75)


def test_the_worlds_judge_is_a_judge_of_its_own_questions_only():
    gold = llm_judge.reward_judge(functions.resolve("gold"))
    right, wrong = "5.", "6."
    cases = [
        JudgeCase(MESSAGES, right),
        JudgeCase(user_messages("Who are you?"), right),
        JudgeCase(MESSAGES, wrong),
    ]
    result = gold.score(cases, 0)
    assert result.values[0] > result.values[2] and result.values[1] is None
    assert result.counts == {"questions": 3, "unanswered": 1}
    pairs = [
        JudgePair(MESSAGES, right, wrong),
        JudgePair(MESSAGES, wrong, right),
        JudgePair(MESSAGES, right, right),
    ]
    assert gold.compare(pairs, 0).values == [1.0, 0.0, 0.5]
    assert gold.score([], 0).values == [] and gold.compare(
        [JudgePair(user_messages("Who?"), "a", "b")], 0
    ).values == [None]


def test_a_function_is_a_judge_and_sees_the_record():
    length = llm_judge.reward_judge(
        functions.RewardFunction(
            "f",
            lambda completions, most, **rest: [m - len(c) for c, m in zip(completions, most, strict=True)],
        )
    )
    assert length.score([JudgeCase(MESSAGES, "abc", {"most": 5})], 0).values == [2.0]
    assert length.compare([JudgePair(MESSAGES, "abc", "ab", {"most": 5})], 0).values == [0.0]


FAULTS = {
    "the judge's last line is not a verdict: Nice": Completion("Nice.", "stop"),
    "the judge's answer is empty": Completion(" ", "stop"),
    "the judge's answer did not end in 9 tokens: raise --judge_max_new": Completion("Sc", CUT_OFF),
    "the judge's answer did not end in 9 tokens of thought and answer: raise --judge_max_new": Completion(
        "", CUT_OFF, thought="Score: 3"
    ),
    "the endpoint refused the request (400): no": Completion(
        "", REFUSED, detail="the endpoint refused the request (400): no"
    ),
    "the judge's context has no room for the prompt": Completion("", REFUSED),
    "the endpoint's content filter ended the judge's answer": Completion("", FILTERED),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_case_without_a_verdict_has_a_reason(fault):
    model = Model(lambda text, n: FAULTS[fault] if "Six" in text else "Score: 4")
    result = model.judge(max_new=9).score([JudgeCase(MESSAGES, "Five."), JudgeCase(MESSAGES, "Six.")], 0)
    assert result.values == [4.0, None] and result.faults == ["", fault]
    assert {one.max_new for one in model.requests} == {9}
    model = Model(lambda text, n: FAULTS[fault] if text.index("Six") < text.index("Five") else "Verdict: A")
    result = model.judge(max_new=9).compare([JudgePair(MESSAGES, "Five.", "Six.")], 0)
    assert result.values == [None] and result.faults == [fault]


def test_a_function_that_does_not_apply_leaves_a_case_unjudged():
    judge = llm_judge.reward_judge(functions.RewardFunction("f", lambda completions: [None, 2.0]))
    result = judge.score([JudgeCase(MESSAGES, "a"), JudgeCase(MESSAGES, "b")], 0)
    assert result.values == [None, 2.0] and result.faults == ["the judge has no score for it", ""]


def test_an_expected_score_is_read_from_the_answer_s_own_tokens():
    """The white space between thought and answer is in the tokens, and not in the answer."""
    found = tokens("\n\nScore", ": ", "8", **{"8": 0.5, "9": 0.5})
    model = Model(lambda text, n: Completion("Score: 8", "stop", found, thought="Score: 1"))
    assert model.judge(top_logprobs=3).score([JudgeCase(MESSAGES, "Five.")], 0).values == [pytest.approx(8.5)]
