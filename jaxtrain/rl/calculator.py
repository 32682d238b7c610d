"""A calculator as a tool of environments: numbers with + - * / and parentheses, exact. jax is not imported here."""

import ast
import operator
import re
from fractions import Fraction
from typing import Any

LONGEST = 200  # characters of an expression
DIGITS = 10  # significant ones of a result that does not end
_ALLOWED = re.compile(r"[0-9.+\-*/() ]+")
_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
_SIGNS = {ast.UAdd: operator.pos, ast.USub: operator.neg}
# How people and models write the same: 1,000, $5, 3 × 4, 48/2=, 20%.
_SAME = str.maketrans({"×": "*", "÷": "/", "−": "-", "$": "", "\n": " ", "\t": " "})
_THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
_PERCENT = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+) *%(?! *[0-9.(])")


def calculate(expression: str) -> str:
    """The value of an arithmetic expression, such as 3 * (4 + 5) or 12.5 / 5. Raises ValueError, which says why not."""
    text = str(expression)
    if len(text) > LONGEST:
        raise ValueError(f"an expression has at most {LONGEST} characters, this one {len(text)}")
    text = _THOUSANDS.sub("", text.translate(_SAME)).strip().removesuffix("=").strip()
    text = _PERCENT.sub(r"(\1/100)", text)
    if not _ALLOWED.fullmatch(text):
        raise ValueError(f"write numbers with + - * / and parentheses, not {str(expression)[:40]!r}")
    try:
        return number_text(_value(ast.parse(text, mode="eval").body, text))
    except (SyntaxError, MemoryError, RecursionError) as error:  # the last two of parentheses in parentheses
        raise ValueError(f"{text[:40]!r} is no whole expression") from error
    except ZeroDivisionError as error:
        raise ValueError("a division by 0") from error


def number_text(value: Fraction) -> str:
    """A number as people write it: whole, with its decimals, or DIGITS significant digits of those that do not end."""
    if value.denominator == 1:
        return str(value.numerator)
    twos = fives = 0
    left = value.denominator
    while left % 2 == 0:
        left, twos = left // 2, twos + 1
    while left % 5 == 0:
        left, fives = left // 5, fives + 1
    places = max(twos, fives)
    if left > 1 or places > DIGITS:
        return f"{float(value):.{DIGITS}g}"
    digits = f"{abs(value.numerator) * 10**places // value.denominator:0{places + 1}d}"
    return f"{'-' * (value < 0)}{digits[:-places]}.{digits[-places:]}"


def _value(node: Any, text: str) -> Fraction:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return Fraction(ast.get_source_segment(text, node))  # 0.1 is one tenth
    if isinstance(node, ast.UnaryOp):
        return _SIGNS[type(node.op)](_value(node.operand, text))
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left, text), _value(node.right, text))
    raise ValueError(f"write numbers with + - * / and parentheses, not {text[:40]!r}")
