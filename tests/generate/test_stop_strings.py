"""Stop strings in texts that grow token by token."""

from jaxtrain.generate import stop_strings


def decode(ids):
    return "".join(map(chr, ids))


def test_the_first_stop_is_found():
    assert stop_strings.find_stop("one two", ["two", "ne"]) == 1
    assert stop_strings.find_stop("one two", ["three"]) is None


def test_text_is_stable_up_to_what_may_become_a_stop_or_a_character():
    assert stop_strings.stable_text("ab\n", ["\nUser:"]) == ("ab", False)
    assert stop_strings.stable_text("ab\nUser: x", ["\nUser:"]) == ("ab", True)
    assert stop_strings.stable_text(f"ab{stop_strings.UNKNOWN}", []) == ("ab", False)
    assert stop_strings.stable_text("abab", ["abac"]) == ("ab", False)


def test_the_tokens_until_a_stop_are_the_fewest_that_have_it():
    ids = [ord(c) for c in "xxabcab"]
    assert stop_strings.tokens_until_stop(ids, ["abc"], decode) == 5
    assert stop_strings.tokens_until_stop(ids, ["nothing"], decode) is None
    assert stop_strings.tokens_until_stop(ids, [], decode) is None
