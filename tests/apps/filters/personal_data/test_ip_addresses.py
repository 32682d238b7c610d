"""IP addresses of hosts, and versions, networks, slices and scopes that are none."""

import pytest

from jaxtrain.apps.filters.personal_data import ip_addresses


def found(text):
    return [text[start:end] for start, end in ip_addresses.ips(text)]


@pytest.mark.parametrize(
    "text, address",
    [
        ("192.0.2.7:8080", "192.0.2.7"),
        ("<td>203.0.113.77</td>", "203.0.113.77"),
        ("from <203.0.113.77>", "203.0.113.77"),
        ("root@192.168.1.1", "192.168.1.1"),
        ("host 1.2.3.4 answered", "1.2.3.4"),
        ("http://[2001:db8::1]:8080/", "2001:db8::1"),
        ("2001:db8::1: timed out", "2001:db8::1"),
        ("from ::ffff:192.0.2.7", "::ffff:192.0.2.7"),
        ("fe80::1ff:fe23:4567:890a%eth0", "fe80::1ff:fe23:4567:890a%eth0"),
        ("192.168.1.17/24", "192.168.1.17"),
    ],
)
def test_hosts(text, address):
    assert address in found(text)


@pytest.mark.parametrize(
    "text",
    [
        "numpydoc==1.2.3.4", "imgtool>=4.5.0.62,<5.1.2.3", "<version>4.20.1.77</version>", "Chrome/44.0.249.0",
        'see the sections "8.2.4.44" and 8.2.4.45', "192.168.0.0/16", "2001:db8::/32", "127.0.0.1", "255.255.255.0",
        "rows[1::2]", "grid[2001::2, ::4]", "std::v1::x2", "12:34:56", "00:1B:44:11:3A:B7", "52:54:00:12:34:56:78:9a",
        "1.3.6.1.4.1.311", "10::3", "::", "fade::d2",
    ],
)  # fmt: skip
def test_others(text):
    assert found(text) == []
