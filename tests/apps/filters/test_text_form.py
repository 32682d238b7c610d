"""The form of a text, by what most of its lines look like."""

import pytest

from jaxtrain.apps.filters import text_form
from tests.apps.filters.languages import TEXTS
from tests.apps.filters.pages import GOOD, PAGES

FORMS = {"code": "code", "yaml": "code", "log": "log", "csv": "table", "verse": "verse"}


@pytest.mark.parametrize("name", TEXTS)
def test_texts_in_forms_and_languages(name):
    assert text_form.form_of(TEXTS[name]) == FORMS.get(name, "prose")


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_prose(name):
    assert text_form.form_of(PAGES[name]) == "prose"


def test_others():
    assert text_form.form_of("") == text_form.form_of(GOOD) == "prose"
    assert text_form.form_of("| a | b |\n|---|---|\n| 1 | 2 |") == "table"
    assert text_form.form_of("SELECT a FROM b\nWHERE c = 1\nGROUP BY d") == "code"
    assert text_form.form_of("var a={b:[1,2],c:(d)=>{return e[f];}};" * 3) == "code"
    dialog = "Human: How do I wash a bike?\nAI: Just wipe the bike.\nHuman: With what?\nAI: A wet cloth."
    assert text_form.form_of(dialog) == "prose"
