"""Telephone numbers: forms, words before them, extensions, and numbers that are none."""

import pytest

from jaxtrain.apps.filters.personal_data import phones


def found(text):
    return sorted({text[start:end] for start, end in phones.phones(text)})


@pytest.mark.parametrize(
    "text, number",
    [
        ("Suite 300 415-555-2671", "415-555-2671"),
        ("(415) 555-2671 ext. 304.", "(415) 555-2671 ext. 304"),
        ("Tel.: 030/901820-0", "030/901820-0"),
        ("Tel. 030 901820 / 030 901821", "030 901820"),
        ("ring me on 020 7946 0958 2 times", "020 7946 0958"),
        ("give me a call: 07700 900123", "07700 900123"),
        ("my number is 07700900123", "07700900123"),
        ("(+358) 235708325", "(+358) 235708325"),
        ("(+49 30 901820)", "+49 30 901820"),
        ('"mobile": "612 345 678"', "612 345 678"),
        ("<td>Phone</td><td>030 901820</td>", "030 901820"),
        ("01 23 45 67 89", "01 23 45 67 89"),
    ],
)
def test_forms(text, number):
    assert number in found(text)


@pytest.mark.parametrize(
    "text",
    [
        "Call of the Barn sold 1 000 000 copies.",
        "mobile 1 200 000 users",
        "Each cell 1 200 000 units, the phone 2 000 000",
        "NUMBER 1234567 and the serial number is 12345678",
        "x + 4565594000*p**6 + 18082050000*p",
        "206.766 9894 and 1838.683 6605",
        "array([+1.12345679, +1.4142135623731])",
        "(1, 1980-02-29 01)",
        "0000 4ff0 e8a1 0012, 0031 2044 0034",
        "In 1963-2062 they sold 088 265 325 of them.",
        "IBAN ES78 3416 5811 1722 0422 8478",
    ],
)
def test_other_numbers(text):
    assert found(text) == []


def test_the_word_before_a_number_decides():
    assert found("Fax 72 12 34") == ["72 12 34"] and found("Page 72 12 34") == []
    assert found("phone_id = 12345678") == [] and found("phone = 12345678") == ["12345678"]
    assert found("Phone: 555-0123") == ["555-0123"] and found("see 555-0123") == []
