"""Programs that grow without bound, and that limits change nothing of others."""

import pytest

from jaxtrain.data import jinja_limits
from jaxtrain.data.chat_jinja import ChatJinja, TemplateFailure

GROWING = [
    "{% for i in range(99999) %}{{ 'a' * 10000 }}{% endfor %}",
    "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "{% macro f(x) %}{{ x }}{{ x }}{% endmacro %}{% set n = namespace(x='a') %}"
    "{% for i in range(60) %}{% set n.x = f(n.x) %}{% endfor %}",
    "{{ 'a' | center(10 ** 11) }}",
    "{{ 'a'.ljust(10 ** 11) }}",
    "{{ 'a'.zfill(10 ** 11) }}",
    "{{ ('a' * 10 ** 6).replace('a', 'a' * 10 ** 6) }}",
    "{{ ('a' * 10 ** 6) | replace('a', 'a' * 10 ** 6) }}",
    "{{ '\\t'.expandtabs(10 ** 11) }}",
    "{{ 'a' | indent(10 ** 11, true) }}",
    "{{ '%099999999999d' % 3 }}",
    "{{ '%*d' % (10 ** 11, 3) }}",
    "{{ '%*d' | format(10 ** 11, 3) }}",
    "{{ '{:99999999999}'.format(3) }}",
    "{{ '{:{}}'.format(3, 10 ** 11) }}",
    "{{ ('a' * 10 ** 6).translate({97: 'a' * 10 ** 6}) }}",
]


@pytest.mark.parametrize("source", GROWING)
def test_what_grows_without_bound_is_stopped_before_it_does(source):
    with pytest.raises(TemplateFailure, match=f"more than {jinja_limits.MOST:,}"):
        ChatJinja(source).render([], {})


def test_limits_change_nothing_of_what_stays_within_them():
    source = "{{ 'a' | center(5) }}|{{ 'ab'.replace('b', 'cc') }}|{{ 'x\ny' | indent(2) }}|{{ '%3d' % 7 }}|"
    source += "{{ 'a' ~ 1 ~ missing ~ 'b' }}|{{ ('a,b' | replace(',', ';')) }}|{{ [1] + [2] }}|{{ '%s' | format(4) }}"
    assert ChatJinja(source).render([], {}) == "  a  |acc|x\n  y|  7|a1b|a;b|[1, 2]|4"
    with pytest.raises(TemplateFailure, match="TypeError"):
        ChatJinja("{{ 'a' | replace(3) }}").render([], {})


def test_the_time_of_several_renderings_is_bounded_together():
    loop = ChatJinja("{% for m in messages %}{{ m }}{% endfor %}")
    with (
        jinja_limits.within(60.0),
        jinja_limits.within(-1.0),
        pytest.raises(TemplateFailure, match="loop for ever"),
    ):
        loop.render(["a"], {})
    assert loop.render(["a"], {}) == "a"
