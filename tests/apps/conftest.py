"""A browser for the tests of pages."""

import pytest

from tests import browser


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser.opened(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def page(chromium):
    """A new tab, in which no error may occur."""
    chromium.events.clear()
    tab = chromium.page()
    tab.emulate()
    yield tab
    assert chromium.errors() == []
