"""What refusals of today's servers say about parameters, and what is sent instead."""

import json

import pytest

from jaxtrain.inference import endpoint_params
from jaxtrain.inference.endpoint_errors import details

USER = {"role": "user", "content": "Hi."}
BODY = {
    "model": "m", "seed": 3, "temperature": 0.0, "max_tokens": 9, "n": 2, "stop": ["\n"], "logprobs": True,
    "top_logprobs": 5, "messages": [{"role": "system", "content": "Be kind."}, USER],
}  # fmt: skip


def openai(message, param=None, code=None):
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}


def fastapi(message, *loc, kind="extra_forbidden"):
    return {"detail": [{"type": kind, "loc": ["body", *loc], "msg": message, "input": {"temperature": 0}}]}


# Of each server: (its body, the parameter that it does not take).
REFUSALS = [
    (openai("Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' "
            "instead.", "max_tokens", "unsupported_parameter"), "max_tokens"),
    (openai("this model does not take max_tokens; send max_completion_tokens"), "max_tokens"),
    (openai("temperature: only the default, 1, is taken by this model", "temperature"), "temperature"),
    (openai("Unsupported value: 'temperature' does not support 0.0 with this model.", "temperature",
            "unsupported_value"), "temperature"),
    (openai("Unrecognized request argument supplied: seed"), "seed"),
    (openai("Unsupported value: 'messages[0].role' does not support 'system' with this model.", "messages[0].role",
            "unsupported_value"), "system"),
    ({"object": "error", "message": "System role not supported", "type": "BadRequestError", "code": 400}, "system"),
    ({"object": "error", "message": "Conversation roles must alternate user/assistant/user/assistant/..."}, "system"),
    ([{"error": {"code": 400, "message": "Developer instruction is not enabled for models/g", "status": "INVALID"}}],
     "system"),
    ({"object": "error", "message": {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"],
                                                 "msg": "Extra inputs are not permitted", "input": 3}]}}, "seed"),
    (fastapi("Extra inputs are not permitted", "stop"), "stop"),
    ({"detail": "Unknown parameter: n"}, None),  # one letter is a parameter only where it is marked as one
    ({"detail": "Unknown parameter: 'n'"}, "n"),
    ({"error": {"code": 400, "message": "Only one completion choice is allowed"}}, "n"),
    ([{"error": {"message": 'Invalid JSON payload received. Unknown name "seed": Cannot find field.'}}], "seed"),
    ({"type": "error", "error": {"type": "invalid_request_error", "message": "seed: Extra inputs are not permitted"}},
     "seed"),
    ({"error": "`temperature` is deprecated for this model."}, "temperature"),
    ({"error": "Input validation error: `temperature` must be strictly positive"}, "temperature=0"),
    ({"message": "unknown field `seed`, expected one of `messages`, `model`, `stop`, `temperature`"}, "seed"),
    ({"error": {"message": "`logprobs` is not supported with this model"}}, "logprobs"),
    ({"error": {"message": "property 'top_logprobs' is unsupported"}}, "logprobs"),
    ("Argument not supported on this model: stop", "stop"),
    ("<html><body><h1>400</h1>unsupported parameter: seed</body></html>", "seed"),
    # What speaks of something else.
    (openai("This model's maximum context length is 100 tokens. However, your messages and max_tokens exceed it; "
            "reduce them instead."), None),
    (openai("'max_tokens' is too large: 512. This model's maximum context length is 100 tokens."), None),
    (openai("temperature must be between 0 and 2", "temperature"), None),
    (openai("The model `stop-7b` is not supported"), None),
    (openai("Your prompt is not allowed by our policy"), None),
    (fastapi("Field required", "prompt", kind="missing"), None),
    (openai("Unsupported parameter: 'model'", "model"), None),
    ("", None),
]  # fmt: skip


@pytest.mark.parametrize("body, name", REFUSALS)
def test_a_refusal_names_what_the_endpoint_does_not_take(body, name):
    error = details(body if isinstance(body, str) else json.dumps(body))
    assert endpoint_params.learnt(BODY, 400, error) == name
    assert endpoint_params.learnt(BODY, 429, error) is None
    if name and name not in endpoint_params.NEEDED:
        assert error.message in endpoint_params.line_of(name, error)
        after, made = endpoint_params.changed(BODY, [name])
        assert made == [name] and endpoint_params.changed(after, [name]) == (after, [])
        assert endpoint_params.learnt(after, 400, error) != name, "it is not learnt twice"


def test_what_is_sent_instead():
    after, made = endpoint_params.changed(BODY, ["max_tokens", "seed", "system", "stop", "n", "frequency"])
    assert after == {
        "model": "m", "temperature": 0.0, "max_completion_tokens": 9, "logprobs": True, "top_logprobs": 5,
        "messages": [{"role": "user", "content": "Be kind.\n\nHi."}],
    }  # fmt: skip
    assert made == ["max_tokens", "seed", "system", "stop", "n"]
    assert endpoint_params.changed(BODY, ["temperature=0"])[0]["temperature"] == endpoint_params.COLDEST
    warm = {**BODY, "temperature": 0.7}
    assert endpoint_params.changed(warm, ["temperature=0"]) == (warm, [])
    alone = {"messages": [{"role": "system", "content": "Be kind."}]}
    assert endpoint_params.changed(alone, ["system"])[0]["messages"] == [
        {"role": "user", "content": "Be kind."}
    ]
    assert BODY["messages"][0]["role"] == "system", "the request itself stays"
