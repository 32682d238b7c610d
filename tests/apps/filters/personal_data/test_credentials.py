"""Keys, tokens and passwords: what stands after their names, and code that yields them."""

import pytest

from jaxtrain.apps.filters.personal_data import credentials


def found(text):
    return [text[start:end] for start, end in credentials.keys(text)]


@pytest.mark.parametrize(
    "text, secret",
    [
        ('password = "p(2KA7i5tp"', "p(2KA7i5tp"),
        ("DB_PASSWORD=0$IlX67t#3uKUA", "0$IlX67t#3uKUA"),
        ('{"client_secret": "aB3dE6gH9jK2"}', "aB3dE6gH9jK2"),
        ("login(api_key='a81bc81b3c9f4e0d')", "a81bc81b3c9f4e0d"),
        ("postgres://ada:s3cR7tpw9@db:5432/app", "s3cR7tpw9"),
        ("Authorization: token 1f2e3d4c5b6a79880716", "1f2e3d4c5b6a79880716"),
        ("the password is hT7kQ2vN9xLp.", "hT7kQ2vN9xLp"),
        ("AKIAQ3EGUXN2Y7PLKZ5T", "AKIAQ3EGUXN2Y7PLKZ5T"),
    ],
)
def test_secrets(text, secret):
    assert found(text) == [secret]


@pytest.mark.parametrize(
    "text",
    [
        "token = get_token_v2(session)", "secret = hashlib.sha256(data1).hexdigest()", "password: Optional[str2]",
        "api_key = os.environ['API_KEY_2']", "password: ${DB_PASSWORD_1}", "token=%ACCESS_TOKEN_1%",
        "key = a81bc81b3c9f4e0d9d3f", "num_tokens = 128k4096x", "https://user:password@host.example/",
        "password = 'your-password-1'", "sk-learn-estimator-label-v2", "Authorization: Bearer <token-1>",
        "token = this.jwtSignRS256(x)", "secret_key = settings.SECRET_KEY2",
    ],
)  # fmt: skip
def test_code_and_placeholders(text):
    assert found(text) == []


def test_a_private_key_is_one_block():
    block = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----"
    assert found(f"see {block} and") == [block]
