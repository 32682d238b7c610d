"""What is personal is found whole, and what only looks like it is left as it is."""

import pytest

from jaxtrain.apps.filters import pii, record_texts
from jaxtrain.apps.filters.pii import PiiFilter
from tests.apps.filters.personal_data.cases import NOT_PERSONAL, PERSONAL

CHECK = pii.check(PiiFilter())


@pytest.mark.parametrize("text", NOT_PERSONAL)
def test_what_is_not_personal_stays(text):
    for context in ("{}", "{}\n", "x\n{}\ny", "\t{}"):
        whole = context.format(text) if "{" not in text else context.replace("{}", text)
        found = CHECK(whole)
        assert record_texts.mask_findings(whole, found) == whole, found


@pytest.mark.parametrize("kind, datum, text", PERSONAL)
def test_what_is_personal_is_found(kind, datum, text):
    for whole in (text, f"One more.\n{text}\nAnd so on.", f'"{text}"', f"({text})"):
        at = whole.index(datum)
        found = [(one.rule, one.span) for one in CHECK(whole)]
        assert (kind, (at, at + len(datum))) in found
        assert not [one for one in found if one[1][0] >= at + len(datum) or one[1][1] <= at] or "," in text
