"""Templates as programs: what they get, how long they run, what they may make."""

import json

import pytest

from jaxtrain.config import ConfigError
from jaxtrain.data import jinja_limits
from jaxtrain.data.chat import Template
from jaxtrain.data.chat_jinja import ChatJinja, TemplateFailure, with_arguments
from tests.data.talk import tokenizer_of

FAILING = [
    ("", "does not write the text of a user's message"),
    ("{{ bos_token }}", "does not write the text of a user's message"),
    ("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}", "does not write this answer"),
    (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "does it loop for ever",
    ),
    ("{{ 'a' * 10 ** 12 }}", "would make more than"),
    ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
    ("{{ messages[0].content.nothing.at_all }}", "has no attribute"),
]


@pytest.mark.parametrize(("source", "words"), FAILING)
def test_templates_that_fail_are_refused_in_time(source, words, monkeypatch):
    monkeypatch.setattr(jinja_limits, "SECONDS", 0.2)
    with pytest.raises(ConfigError, match=f"--template=mine: .*{words}"):
        Template("mine", source, tokenizer_of("[ASK]", "[/ASK]", bos="<s>", eos="</s>"))


def test_loops_work_as_jinja_has_them():
    source = (
        "{% for m in messages recursive %}{{ loop.index }}/{{ loop.length }}{% if loop.last %}.{% endif %}"
    )
    source += "{% if loop.depth == 1 and loop.first %}({{ loop([1, 2]) }}){% endif %}{% endfor %}"
    assert ChatJinja(source).render([{}, {}], {}) == "1/2(1/22/2.)2/2."
    assert (
        ChatJinja("{% for k, v in messages[0].items() %}{{ k }}{{ v }}{% endfor %}").render([{"a": 1}], {})
        == "a1"
    )
    with pytest.raises(TemplateFailure, match="not iterable"):
        ChatJinja("{% for x in messages[0].a %}{% endfor %}").render([{"a": 1}], {})


def test_variables_and_functions():
    source = "{{ tools is none }} {{ documents is none }} {{ mine }} {{ strftime_now('%d %b %Y') }}"
    assert ChatJinja(source).render([], {"mine": 3}) == "True True 3 26 Jul 2024"
    assert ChatJinja("{{ messages | tojson }}").render([{"a": "<é>'"}], {}) == """[{"a": "<é>'"}]"""
    assert ChatJinja("a{% generation %}b{% endgeneration %}c").render([], {}) == "abc"
    with pytest.raises(TemplateFailure, match="never"):
        ChatJinja("{{ raise_exception('never') }}").render([], {})
    with pytest.raises(TemplateFailure, match="half a surrogate pair"):
        ChatJinja("{{ messages[0] }}").render(["\ud83d"], {})


@pytest.mark.parametrize("arguments", [{"a": [1, "é"]}, '{"a": [1, "é"]}'])
def test_arguments_are_an_object_and_text(arguments):
    call = with_arguments({"type": "function", "function": {"name": "f", "arguments": arguments}})
    given = call["function"]["arguments"]
    text = '{"a": [1, "é"]}'
    assert given == {"a": [1, "é"]} and str(given) == text and "<" + given + ">" == f"<{text}>"
    assert json.loads(json.dumps(given)) == given
    assert with_arguments({"name": "f", "arguments": arguments})["arguments"] == given


def test_what_are_no_arguments_stays_as_it_is():
    for call in (
        "text",
        {"arguments": "{"},
        {"arguments": "[1]"},
        {"arguments": 3},
        {"arguments": "[" * 9999},
    ):
        assert with_arguments(call) == call
