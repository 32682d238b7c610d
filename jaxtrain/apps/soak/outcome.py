"""How often a fault was injected, and how often what is promised held."""

from typing import NamedTuple


class Outcome(NamedTuple):
    """One row of the table of a soak."""

    fault: str  # what was done to what, as the table names it
    times: int  # injections
    held: int  # injections after which everything promised was true
    detail: str  # how to repeat it, or the first injection that did not hold
