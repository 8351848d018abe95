"""The answers of the service, parsed strictly: what cannot be understood is no answer."""

from __future__ import annotations

import ipaddress
import json
import re
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from .token import Token

_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
# The cursor becomes part of a URL.
_CURSOR = re.compile(r"[A-Za-z0-9._~-]{1,4096}", re.ASCII)
_MAX_DIGITS = 18


class Malformed(ValueError):
    """An answer that this version of the library does not understand, or that makes no sense."""


class Introspection(NamedTuple):
    """The answer of ``/oauth2/introspect`` about a live token."""

    token: Token
    age: int
    """The time before the answer as of which the token is live, in nanoseconds."""


class Changes(NamedTuple):
    """The answer of ``/api/v1alpha/changes``."""

    cursor: str
    """The cursor of the next question."""
    age: int
    """The time before the answer as of which the changes are complete, in nanoseconds."""
    reset: bool
    """Whether a sequence begins."""
    tokens: Tuple[str, ...]
    """The ids of the tokens that changed."""


def parse_introspection(body: bytes) -> Optional[Introspection]:
    """The token of an answer to introspection; ``None``: it is not live."""
    answer = _object(body)
    if not _take(answer, "active", bool):
        return None
    scope = _take_optional(answer, "scope", str) or ""
    token = Token(
        id=_id(_take(answer, "jti", str)),
        username=_take(answer, "username", str),
        issued_at=_take_optional(answer, "iat", int),
        expires_at=_take(answer, "exp", int),
        issuer=_take_optional(answer, "iss", str),
        scopes=tuple(scope.split()),
        audiences=_audiences(answer.get("aud")),
        networks=tuple(_network(text) for text in _texts(answer.get("networks", []))),
    )
    return Introspection(token, _age(answer))


def parse_changes(body: bytes) -> Changes:
    """The changes of an answer."""
    answer = _object(body)
    cursor = _take(answer, "cursor", str)
    if not _CURSOR.fullmatch(cursor):
        raise Malformed("cursor")
    tokens = tuple(_id(text) for text in _texts(_take(answer, "tokens", list)))
    return Changes(cursor, _age(answer), _take(answer, "reset", bool), tokens)


def _object(body: bytes) -> Dict[str, Any]:
    try:
        value = json.loads(body, parse_constant=_refuse, parse_int=_int, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise Malformed("not JSON") from error
    if not isinstance(value, dict):
        raise Malformed("not an object")
    return value


def _refuse(constant: str) -> None:
    """`NaN` and `Infinity` are no JSON, but Python's parser takes them."""
    raise Malformed(constant)


def _int(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise Malformed("number")
    return int(digits)


def _unique(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise Malformed("a member twice")
    return members


def _take(answer: Dict[str, Any], name: str, kind: type) -> Any:
    value = answer.get(name)
    # Not `isinstance`: `True` is an `int`.
    if type(value) is not kind:
        raise Malformed(name)
    return value


def _take_optional(answer: Dict[str, Any], name: str, kind: type) -> Any:
    return None if answer.get(name) is None else _take(answer, name, kind)


def _age(answer: Dict[str, Any]) -> int:
    """The age in nanoseconds. The service rounds it up to whole milliseconds, so it is never too short."""
    milliseconds: int = _take(answer, "age_ms", int)
    if milliseconds < 0:
        raise Malformed("age_ms")
    return milliseconds * 1_000_000


def _id(text: str) -> str:
    text = text.lower()
    if not _ID.fullmatch(text):
        raise Malformed("id")
    return text


def _texts(values: Any) -> List[str]:
    if type(values) is not list or not all(type(value) is str for value in values):
        raise Malformed("not a list of texts")
    return values


def _audiences(value: Any) -> Tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if type(value) is str else tuple(_texts(value))


def _network(text: str) -> Any:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise Malformed("network") from error
