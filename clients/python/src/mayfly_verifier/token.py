"""A verified token, and what a request may demand of one."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Iterable, Optional, Tuple, Union

from .errors import Rejected

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]
Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]


@dataclass(frozen=True)
class Token:
    """A live token."""

    id: str
    """The ``jti`` of its JWT: a UUID in lower case."""
    username: str
    """The name of the user whom the token belongs to."""
    issued_at: Optional[int]
    """When it was issued, in seconds since 1970 (UTC)."""
    expires_at: int
    """When it expires, in seconds since 1970 (UTC)."""
    issuer: Optional[str]
    """The issuer, if the service has one configured."""
    scopes: Tuple[str, ...]
    """The scopes of the token. A token without scopes has none."""
    audiences: Tuple[str, ...]
    """The audiences of the token; empty: it is not meant for particular ones."""
    networks: Tuple[Network, ...]
    """The networks from which the token may be used; empty: from anywhere."""

    def has_scope(self, scope: str) -> bool:
        """Whether the token has this scope."""
        return scope in self.scopes


def scopes_of(scope: Union[str, Iterable[str]]) -> Tuple[str, ...]:
    """The scopes of a text that separates them by spaces, or of several texts."""
    return tuple(scope.split()) if isinstance(scope, str) else tuple(scope)


def check_demands(
    token: Token, scopes: Tuple[str, ...], audience: Optional[str], client: Union[str, Address, None]
) -> None:
    """Raises `Rejected` unless the token has all scopes and the audience, and may be used from the address."""
    if audience is not None and audience not in token.audiences:
        raise Rejected("audience")
    if not all(scope in token.scopes for scope in scopes):
        raise Rejected("scope", scopes)
    if token.networks:
        address = _address(client)
        if address is None or not any(address in network for network in token.networks):
            raise Rejected("network")


def _address(client: Union[str, Address, None]) -> Optional[Address]:
    if client is None:
        return None
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return None
    # An IPv4 client of an IPv6 socket has an address that is mapped to IPv6.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
