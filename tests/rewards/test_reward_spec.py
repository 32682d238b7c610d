"""The grammar of --reward: names, options, quoted values and weights, and what is none of them."""

import pytest

from jaxtrain.config import ConfigError
from jaxtrain.rewards import reward_spec

SHIPPED = ("gold", "math", "regex")


def parts(text):
    return [tuple(part) for part in reward_spec.parts(text, SHIPPED, "--reward")]


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("math", [("math", (), 1.0)]),
        ("math?answer=solution*2", [("math", (("answer", "solution"),), 2.0)]),
        ("math*1,regex?pattern=a*.2", [("math", (), 1.0), ("regex", (("pattern", "a"),), 0.2)]),
        (
            r'regex?pattern="^\d+, (a*|b&c) \"x\"$"&mode=match*-1e-1,gold',
            [("regex", (("pattern", r'^\d+, (a*|b&c) "x"$'), ("mode", "match")), -0.1), ("gold", (), 1.0)],
        ),
        ('regex?pattern="a*"*2', [("regex", (("pattern", "a*"),), 2.0)]),
        (r'regex?pattern="\\d"', [("regex", (("pattern", r"\\d"),), 1.0)]),
        ("regex?pattern=a=b", [("regex", (("pattern", "a=b"),), 1.0)]),
        ("a, b/c.py:f.g?format=text*3", [("a, b/c.py:f.g", (("format", "text"),), 3.0)]),
        ("what?x=y.py:f", [("what?x=y.py:f", (), 1.0)]),
        (" gold , m:f ", [("gold", (), 1.0), ("m:f", (), 1.0)]),
    ],
)
def test_a_reward_has_names_options_and_weights(text, wanted):
    assert parts(text) == wanted


@pytest.mark.parametrize("text", ["", "golden", "regex?pattern=a*b", "regex?pattern=a,b", "gold*x", "runs/x"])
def test_another_form_is_no_reward(text):
    assert parts(text) == []


@pytest.mark.parametrize(
    "text, message",
    [
        ("math?answer", "answer is not an option; write key=value"),
        ("math?", "is not an option"),
        ("math?answer=", "answer= is not an option"),
        ('regex?pattern=""', "pattern= is not an option"),
        ("math?answer=a&answer=b", "an option of math stands twice"),
        ("math*1.2.3", r"the weight \*1\.2\.3 is not a number"),
    ],
)
def test_what_is_no_option_is_refused(text, message):
    with pytest.raises(ConfigError, match=f"^--reward: .*{message}"):
        parts(text)
