"""E-mail addresses: domains, encodings, spelled out ones, and code that is none."""

import pytest

from jaxtrain.apps.filters.personal_data import emails


def found(text):
    return [text[start:end] for start, end in emails.emails(text)]


@pytest.mark.parametrize(
    "domain, known",
    [
        ("mail.example.org", True),
        ("example", True),  # a reserved name by itself
        ("b.co.uk", True),
        ("co.uk", False),  # a suffix without a name
        ("müller.de", True),
        ("xn--e1afmkfd.xn--p1ai", True),
        ("w.sum", False),
        ("h.view", False),
    ],
)
def test_suffixes(domain, known):
    assert emails.has_known_suffix(domain) is known


def test_several_addresses_and_what_stands_around_them():
    text = "<mailto:ada@mail.example.org>,bob@mail.example.org;eve@mail.example.org."
    assert found(text) == ["ada@mail.example.org", "bob@mail.example.org", "eve@mail.example.org"]
    assert found("email='ada@mail.example.org'") == ["ada@mail.example.org"]
    assert found("at {user}@mail.example.org or $user@mail.example.org") == []


def test_members_of_objects_need_a_sign():
    assert found("y = x@w.data") == [] == found("f(x@w.name)")
    assert found("mail: ada@lovelace.name") == ["ada@lovelace.name"] == found("ada@lovelace.name")
    assert found("run foo-bar@baz.py") == []


def test_logins_and_passwords_of_urls_are_none():
    assert found("git clone git@github.com:org/repo.git") == []
    assert found("https://ada:s3cR7tpw9@db.example.org/") == []


def test_encoded_and_spelled_out():
    entities = "".join(f"&#{ord(c)};" for c in "ada@mail.example.org")
    assert found(f"<a>{entities}</a>") == [entities]
    assert found("ada [at] mail [dot] example dot com please") == ["ada [at] mail [dot] example dot com"]
    assert found("look at example dot com") == []
    assert found("choose 5 [at] most, not 6 (at) once") == []
