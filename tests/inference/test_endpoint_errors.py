"""Errors of endpoints as people read them."""

import json

import pytest

from jaxtrain.inference import endpoint_errors
from jaxtrain.inference.endpoint_errors import LONGEST, details


@pytest.mark.parametrize("body, message", [
    ({"error": {"message": "No such key", "type": "invalid_request_error", "code": None}}, "No such key"),
    ({"object": "error", "message": "Too long", "code": 400}, "Too long"),
    ({"detail": "Not Found"}, "Not Found"),
    ({"detail": [{"loc": ["body", "n"], "msg": "must be 1", "input": "secret prompt"}]}, "must be 1"),
    ([{"error": {"message": "Bad name"}}], "Bad name"),
    ({"error": "model not found"}, "model not found"),
    ({"errors": 3}, "no message"),
    ("plain words\nover lines", "plain words over lines"),
    ("<html><head><title>502</title></head><body><h1>Bad gateway</h1></body></html>", "502 Bad gateway"),
    ("", "no message"),
    ("x" * 999, f"{'x' * LONGEST}…"),
    ("[" * 100_000, f"{'[' * LONGEST}…"),
])  # fmt: skip
def test_the_message_of_an_error(body, message):
    assert details(body if isinstance(body, str) else json.dumps(body)).message == message


def test_params_and_codes_are_apart_from_the_text():
    error = details('{"error": {"message": "no", "param": "seed", "code": "unsupported_parameter"}}')
    assert error.params == ("seed",) and error.codes == ("unsupported_parameter",) and error.texts == ("no",)


def test_a_missing_version_in_the_address_is_the_remedy_of_a_404():
    assert "below /v1, add it" in endpoint_errors._place("http://host:8000")
    assert "add it" not in endpoint_errors._place("http://host:8000/v1")
