import pytest


@pytest.fixture(autouse=True)
def _quick(quick_compiles):
    """All tests here compile many small programs."""
