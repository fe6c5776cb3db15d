"""Authentication: API keys, client addresses behind proxies, and the name under which a client is counted."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import re
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import Scope

from app.api.problems import Unauthorized

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Authenticator:
    """Identifies clients, and rejects those without a valid API key."""

    def __init__(self, keys: Sequence[str], proxies: Sequence[Network]) -> None:
        self._digests = [_digest(key) for key in keys]
        self._proxies = tuple(proxies)

    @property
    def needs_key(self) -> bool:
        """Whether clients must send a key."""
        return bool(self._digests)

    def client(self, scope: Scope) -> str:
        """Return the name under which the client is counted: a digest of its key, or its address if there are no keys.

        IPv6 clients are counted by /64 network, which usually belongs to one customer. Raises Unauthorized.
        """
        if not self.needs_key:
            return self.address(scope)
        given = _given_key(Headers(scope=scope))
        if given is None:
            raise Unauthorized("No API key was sent.")
        digest = _digest(given)
        # All keys are compared, in constant time, so that timing reveals nothing about them.
        if sum(hmac.compare_digest(digest, known) for known in self._digests) == 0:
            raise Unauthorized("The API key is not valid.")
        return f"key:{digest.hex()[:16]}"

    def address(self, scope: Scope) -> str:
        """Return the client's address: behind trusted proxies, the last in `X-Forwarded-For` that is not a proxy."""
        hops = [scope["client"][0]] if scope.get("client") else []
        if not hops:
            return "address:unknown"
        forwarded = ",".join(Headers(scope=scope).getlist("x-forwarded-for"))
        hops = [hop.strip() for hop in forwarded.split(",") if hop.strip()][-32:] + hops
        client_address = hops[-1]
        for hop in reversed(hops):
            parsed = _parse(hop)
            if parsed is None:
                break
            client_address = str(parsed)
            if not any(parsed in network for network in self._proxies):
                break
        parsed = _parse(client_address)
        if isinstance(parsed, ipaddress.IPv6Address):
            client_address = str(ipaddress.ip_network((parsed, 64), strict=False))
        return f"address:{client_address[:64]}"


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _given_key(headers: Headers) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    if scheme.lower() == "basic" and (key := _basic_key(token)):
        return key
    return headers.get("x-api-key") or None


def _basic_key(token: str) -> str:
    """Return the password of the scheme Basic (RFC 7617), or the user name if there is no password."""
    try:
        user, _, password = base64.b64decode(token.strip(), validate=True).decode().partition(":")
    except ValueError:
        return ""
    return password or user


def _parse(text: str) -> Address | None:
    """Return the address in `text`, which may include a port, or None if it is invalid."""
    with_port = re.fullmatch(r"([\d.]+):\d+|\[(.+)\](?::\d+)?", text)
    try:
        parsed = ipaddress.ip_address(with_port[1] or with_port[2] if with_port else text)
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return mapped or parsed
