"""Personal data: precision and recall on planted formats and their look-alikes, masks, bounds."""

import random
import time
from collections import Counter

import pytest

from jaxtrain.apps.filters import pii
from jaxtrain.apps.filters.personal_data import account_numbers
from jaxtrain.apps.filters.pii import PiiFilter
from jaxtrain.config import ConfigError
from tests.apps.filters import planted
from tests.apps.filters.world import labelled
from tests.apps.filters.world import measured as measured_on_tinytown

CHECK = pii.check(PiiFilter())
EACH = 400


@pytest.fixture(scope="module")
def measured():
    """kind -> counts of right, missed and wrong finds, over planted sentences of all kinds and look-alikes."""
    rng, counts, wrong = random.Random(11), {kind: Counter() for kind in pii.DETECTORS}, []
    cases = [planted.personal(rng, kind) for kind in planted.PERSONAL for _ in range(EACH)]
    cases += [planted.look_alike(rng) for _ in range(EACH * len(planted.PERSONAL))]
    for case in cases:
        found = [(one.rule, one.span) for one in CHECK(case.text)]
        if case.kind:
            hit = (case.kind, case.span) in found
            counts[case.kind]["right" if hit else "missed"] += 1
            wrong += [] if hit else [case]
        for kind, span in found:
            if (kind, span) != (case.kind, case.span):
                counts[kind]["wrong"] += 1
                wrong.append((case.text, kind, case.text[slice(*span)]))
    return counts, wrong


@pytest.mark.parametrize("kind", planted.PERSONAL)
def test_precision_and_recall_of_each_kind_are_98_percent(measured, kind):
    counts, wrong = measured
    right, missed, other = (counts[kind][name] for name in ("right", "missed", "wrong"))
    assert right + missed == EACH
    assert right / EACH >= 0.98 and right / (right + other) >= 0.98, [w for w in wrong if kind in w][:9]


def test_a_masked_text_has_no_datum_left():
    text = "Mail bob@example.com, call (202) 555-0142, or 10.1.2.3."
    found = CHECK(text)
    assert [(one.rule, one.replacement) for one in found] == [
        ("email", "<EMAIL>"), ("phone", "<PHONE>"), ("ip", "<IP>")
    ]  # fmt: skip
    for one in reversed(found):
        text = text[: one.span[0]] + one.replacement + text[one.span[1] :]
    assert text == "Mail <EMAIL>, call <PHONE>, or <IP>."
    assert not CHECK(text)


def test_flags_act():
    text = "bob@example.com has 203.0.113.7"
    assert not pii.check(PiiFilter(pii="off"))(text)
    dropped = pii.check(PiiFilter(pii="drop", pii_kinds="ip"))(text)
    assert [(one.rule, one.replacement) for one in dropped] == [("ip", None)]
    for kinds in ("", "email,email", "names"):
        with pytest.raises(ConfigError, match="--pii_kinds"):
            PiiFilter(pii_kinds=kinds)


def test_check_digits_by_hand():
    assert account_numbers.is_luhn("79927398713") and not account_numbers.is_luhn(
        "79927398710"
    )  # the standard's example
    assert account_numbers.is_mod97("GB82WEST12345698765432") and not account_numbers.is_mod97(
        "GB82WEST12345698765431"
    )  # ISO 13616's
    assert CHECK("IBAN DE89 3704 0044 0532 0130 00.")[0].span == (5, 32)
    assert [one.rule for one in CHECK("Card 4111 1111 1111 1111, 4111 1111 1111 1112")] == ["card"]


def test_private_keys_and_named_secrets():
    block = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----"
    assert [(one.rule, one.span) for one in CHECK(f"see {block}")] == [("key", (4, 4 + len(block)))]
    rng = random.Random(3)
    secret = planted.chars(rng, 30) + "7x"
    assert [one.span for one in CHECK(f'api_key = "{secret}"')] == [(11, 11 + len(secret))]


@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "1",
        "1-",
        "a.",
        "a@",
        "@",
        "1.",
        "1:",
        "+1 ",
        "(1",
        "A1",
        "eyJ",
        "sk-a",
        "token=",
        "call ",
        "4 ",
        "-----BEGIN PRIVATE KEY-----",
        "DE12",
        "::",
        "a (at) ",
        "a [at] b [dot] ",
        "a at b dot ",
        "&#64;",
        "a%40",
        "+1 (2",
        "0 1 2",
        "01/",
        "1.1.1.1 ",
        "tel 1 ",
        "password='",
        "password=a1(",
        "://a:b",
        '{"a":"',
    ],
)
def test_the_time_is_linear_whatever_the_text(piece):
    def seconds(size):
        text = (piece * size)[:size]
        began = time.process_time()
        CHECK(text)
        return time.process_time() - began

    seconds(1000)
    short, long = min(seconds(20_000) for _ in range(2)), seconds(200_000)
    assert long < 1 or long < 30 * short, (short, long)
    assert long < 5


def test_personal_data_of_tinytown():
    check = pii.check(pii.PiiFilter())
    assert min(measured_on_tinytown(check, ("pii",))) >= 0.98
    for one in labelled():
        if one.planted:
            assert one.planted in [one.text[slice(*each.span)] for each in check(one.text)]
