"""The calculator of environments: exact values, and what is no expression."""

import time
from fractions import Fraction

import pytest

from jaxtrain.rl.calculator import LONGEST, calculate, number_text


@pytest.mark.parametrize(
    "text, value",
    [
        ("3 * (4 + 5)", "27"), ("48/2=", "24"), ("1,000*3", "3000"), ("$1,234.50 + $0.50", "1235"),
        ("20% * 50", "10"), ("50 * 20%", "10"), ("0.1 + 0.2", "0.3"), ("-7/4", "-1.75"), ("1/3", "0.3333333333"),
        ("3 × 4 − 12 ÷ 6", "10"), ("-(2 - 5)", "3"), (".5*4", "2"), ("7\n+ 1", "8"), ("1/8000", "0.000125"),
        ("9" * 150 + "*10", "9" * 150 + "0"), (7, "7"),
    ],
)  # fmt: skip
def test_values_are_exact(text, value):
    assert calculate(text) == value


@pytest.mark.parametrize(
    "text, told",
    [
        ("2 ** 9", "write numbers with"), ("2^9", "write numbers"), ("9//2", "write numbers"),
        ("3(4)", "write numbers"), ("1,2", "write numbers"), ("abs(3)", "write numbers"), ("", "write numbers"),
        ("x + 1", "write numbers"), ("1e999999999", "write numbers"), ("7 % 3", "write numbers"),
        ("__import__('os')", "write numbers"), ("...", "write numbers"), ("٣ + ٤", "write numbers"),
        ("1..2", "no whole expression"), ("(3 + 4", "no whole expression"), ("3 +", "no whole expression"),
        ("(" * 99 + "1" + ")" * 98, "no whole expression"), ("5 / (3 - 3)", "a division by 0"),
        ("1+" * LONGEST + "1", "at most 200 characters"), ({"a": 1}, "write numbers"), (None, "write numbers"),
    ],
)  # fmt: skip
def test_what_is_no_expression_is_told(text, told):
    start = time.perf_counter()
    with pytest.raises(ValueError, match=told):
        calculate(text)
    assert time.perf_counter() - start < 1


def test_numbers_are_written_as_people_write_them():
    for value in (Fraction(5), Fraction(-1, 4), Fraction(3, 10**9), Fraction(123456, 1000)):
        assert Fraction(number_text(value)) == value
    assert number_text(Fraction(2, 3)) == "0.6666666667"
