"""Responses in the forms of today's servers: answers, thoughts, parts, refusals, reasons for an end."""

import pytest

from jaxtrain.inference import endpoint_responses
from jaxtrain.inference.endpoint_responses import MalformedResponse
from jaxtrain.inference.llm import CUT_OFF, FILTERED, Request, user_messages

REQUEST = Request(user_messages("Hi."))


def read(message, finish="stop", request=REQUEST, stop=(), **more):
    response = {"choices": [{"message": message, "finish_reason": finish, **more}]}
    (completion,) = endpoint_responses.completions("--judge", request, response, stop)
    return completion


@pytest.mark.parametrize("message, thought, text", [
    ({"content": "Yes."}, "", "Yes."),
    ({"content": "<think>\nhm\n</think>\n\nYes."}, "hm", "Yes."),
    ({"content": "hm\n</think>\n\nYes."}, "hm", "Yes."),
    ({"content": "Yes.", "reasoning_content": "hm\n"}, "hm", "Yes."),
    ({"content": "Yes.", "reasoning": "hm", "reasoning_details": [{"type": "reasoning.text"}]}, "hm", "Yes."),
    ({"content": "<think>b</think>Yes.", "reasoning_content": "a"}, "a\n\nb", "Yes."),
    ({"content": [{"type": "text", "text": "Y"}, {"type": "text", "text": "es."}]}, "", "Yes."),
    ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                  {"type": "text", "text": "Yes."}]}, "hm", "Yes."),
    ({"content": None, "reasoning_content": "hm"}, "hm", ""),
    ({"content": None}, "", ""),
    ({"tool_calls": [{"id": "1"}]}, "", ""),
    ({"content": None, "refusal": "I will not."}, "", "I will not."),
    ({"content": "", "reasoning_content": None}, "", ""),
])  # fmt: skip
def test_the_thought_is_apart_from_the_answer(message, thought, text):
    completion = read({"role": "assistant", **message})
    assert (completion.thought, completion.text) == (thought, text)


@pytest.mark.parametrize("finish, reason", [
    ("stop", "stop"), (None, "stop"), ("length", CUT_OFF), ("max_tokens", CUT_OFF), ("eos_token", "stop"),
    ("content_filter", FILTERED), ("SAFETY", FILTERED), ("tool_calls", "tool_calls"),
])  # fmt: skip
def test_why_a_completion_ended(finish, reason):
    assert read({"content": "Yes."}, finish).finish_reason == reason


def test_stop_strings_that_the_endpoint_does_not_take_cut_the_text_here():
    assert read({"content": "Yes. No. Yes."}, "length", stop=(" Yes", " No"))[:2] == ("Yes.", "stop")
    assert read({"content": "Yes."}, "length", stop=("x",))[:2] == ("Yes.", CUT_OFF)


def logprobs(*tokens):
    return {"content": [{"token": t, "logprob": -1.0, "top_logprobs": []} for t in tokens]}


@pytest.mark.parametrize("message", [
    {"content": "<think>A?</think>\n\nA."}, {"content": "A.", "reasoning_content": "A?"},
])  # fmt: skip
def test_log_probabilities_are_those_of_the_answer(message):
    tokens = logprobs("<think>", "A", "?", "</think>", "\n\n", "A", ".")
    completion = read(message, request=REQUEST._replace(top_logprobs=1), logprobs=tokens)
    assert completion.text == "A." and [one.token for one in completion.logprobs] == ["A", "."]


def test_a_text_that_is_continued_has_no_thought():
    response = {"choices": [{"text": "<think>a</think>b", "finish_reason": "stop"}]}
    (completion,) = endpoint_responses.completions("--judge", REQUEST._replace(raw=True), response)
    assert (completion.thought, completion.text) == ("", "<think>a</think>b")


@pytest.mark.parametrize("response, message", [
    ({"error": {"message": "upstream is down", "code": 502}}, "answered with an error: upstream is down"),
    ({"error": "overloaded"}, "answered with an error: overloaded"),
    ({"other": 1}, "answered without choices: its fields are other"),
    ({"choices": []}, "answered with no choice"),
    ({"choices": [{"message": {"content": [{"type": "image_url"}]}}]}, "a part that is not text"),
    ({"choices": [{"message": {"role": "assistant"}}]}, "a choice without text"),
    ({"choices": [{"message": {"content": ""}, "finish_reason": "error"}]}, "a choice that failed"),
])  # fmt: skip
def test_what_is_malformed_is_described(response, message):
    with pytest.raises(MalformedResponse, match=message):
        endpoint_responses.completions("--judge", REQUEST, response)


@pytest.mark.parametrize("text, message", [
    ("", "an empty body"), ("[1]", "what is not a completion"),
    ("<html><style>p {}</style><body>Log <b>in</b></body></html>", "what is not JSON .*: 'Log in'"),
])  # fmt: skip
def test_bodies_that_are_no_response(text, message):
    with pytest.raises(MalformedResponse, match=message):
        endpoint_responses.read_json(text, "a completion")
