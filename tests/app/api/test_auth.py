from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from app.api.auth import Authenticator
from app.api.problems import Unauthorized

PROXIES = [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8")]


def scope(peer: str | None = "203.0.113.9", **headers: str) -> dict[str, Any]:
    raw = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "http", "headers": raw, "client": (peer, 1234) if peer else None}


def test_a_key_is_needed_where_keys_are_set_and_its_caller_counted_by_it() -> None:
    access = Authenticator(["one", "zwei-ü"], [])
    first = access.client(scope(x_api_key="one"))
    assert first == access.client(scope(authorization="Bearer one"))
    assert first.startswith("key:")
    assert "one" not in first
    for headers in ({}, {"x_api_key": ""}, {"x_api_key": "On"}, {"authorization": "Bearer"}, {"authorization": "one"}):
        with pytest.raises(Unauthorized):
            access.client(scope(**headers))


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("203.0.113.9", None, "203.0.113.9"),
        ("203.0.113.9", "1.2.3.4", "203.0.113.9"),  # whoever is no proxy of ours is not believed
        ("10.1.1.1", None, "10.1.1.1"),
        ("10.1.1.1", "1.2.3.4", "1.2.3.4"),
        ("10.1.1.1", "6.6.6.6, 1.2.3.4, 10.2.2.2", "1.2.3.4"),  # what came before our proxies may be made up
        ("10.1.1.1", "6.6.6.6, nonsense", "10.1.1.1"),
        ("10.1.1.1", "1.2.3.4:5678", "1.2.3.4"),
        ("10.1.1.1", "1.2.3.4" + 31 * ", 10.2.2.2", "1.2.3.4"),
        ("10.1.1.1", "1.2.3.4, 10.3.3.3" + 31 * ", 10.2.2.2", "10.3.3.3"),  # of a long header the last 32 are read
        ("fd00::1", "[2001:db8:1:2:3:4:5:6]:5678", "2001:db8:1:2::/64"),
        ("::ffff:10.1.1.1", "1.2.3.4", "1.2.3.4"),
        ("fd00::1", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        (None, "1.2.3.4", "unknown"),
    ],
)
def test_the_address_behind_proxies(peer: str | None, forwarded: str | None, expected: str) -> None:
    headers = {"x_forwarded_for": forwarded} if forwarded else {}
    assert Authenticator([], PROXIES).client(scope(peer, **headers)) == f"address:{expected}"
