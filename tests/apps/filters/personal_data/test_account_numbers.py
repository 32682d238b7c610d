"""Cards, IBANs and social security numbers: check digits by hand, forms, and numbers of programs."""

from jaxtrain.apps.filters.personal_data.account_numbers import cards, ibans, is_luhn, is_mod97, ssns


def found(detect, text):
    return [text[start:end] for start, end in detect(text)]


def test_check_digits_by_hand():
    assert is_luhn("79927398713") and not is_luhn("79927398710")  # the standard's example
    assert is_mod97("GB82WEST12345698765432")  # ISO 13616's
    assert not is_mod97("GB82WEST12345698765431")


def test_cards_in_groups_and_in_one_piece():
    for text in ("4111 1111 1111 1111", "5500-0000-0000-0004", "3782 822463 10005", "4111111111111111"):
        assert found(cards, f"pay {text}.") == [text]
    assert found(cards, "Suite 300 4111 1111 1111 1111") == ["4111 1111 1111 1111"]
    assert found(cards, "4111 1111 1111 1112") == []
    assert found(cards, "1234 5678 4111 1111 1111 1111 1234") == [], "a column of numbers"
    assert found(cards, "default_rng(4111111111111111)") == [] == found(cards, "4111111111111111*x")


def test_rare_lengths_need_a_name_or_an_expiry_date():
    assert found(cards, "x = 30569309025904") == []
    assert found(cards, "Diners 30569309025904") == ["30569309025904"] == found(cards, "30569309025904 12/27")


def test_ibans():
    assert found(ibans, "IBAN:DE89370400440532013000.") == ["DE89370400440532013000"]
    assert found(ibans, "gb82 west 1234 5698 7654 32") == ["gb82 west 1234 5698 7654 32"]
    assert found(ibans, "DE89 3704 0044 0532 0130 01") == [] == found(ibans, "xDE89370400440532013000")


def test_ssns():
    assert found(ssns, "Form 12 123-45-6789") == ["123-45-6789"]
    assert found(ssns, "SSN: 123456789, social security number 123 45 6788") == ["123 45 6788", "123456789"]
    for text in ("000-12-3456", "666-12-3456", "901-12-3456", "123-00-4567", "123-45-0000", "123 45 6789"):
        assert found(ssns, text) == [], text
