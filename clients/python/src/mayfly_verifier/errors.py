"""Why a token is not accepted."""

from __future__ import annotations

from typing import Literal, Optional, Tuple

Reason = Literal["not_live", "audience", "scope", "network"]

_DETAILS = {
    "not_live": "The token is not valid",
    "audience": "The token is for another audience",
    "scope": "The token lacks a scope",
    "network": "The token may not be used from the client's address",
}


class VerifyError(Exception):
    """A token is not accepted: it was rejected, or nobody could say."""

    status: int
    """The HTTP status to answer with: 401, 403 or 503."""

    @property
    def challenge(self) -> Optional[str]:
        """The ``WWW-Authenticate`` header to answer with (RFC 6750, section 3); ``None``: no such header."""
        return None


class Rejected(VerifyError):
    """The token is not accepted. Answer with ``status``, 401 or 403, and with ``challenge``."""

    reason: Reason
    """
    - ``not_live``: it has expired, was revoked, or was never issued by this service.
    - ``audience``: it is for other audiences.
    - ``scope``: it lacks one of ``scopes``.
    - ``network``: it is bound to networks, and the client's address is in none of them or unknown.
    """

    scopes: Tuple[str, ...]
    """The scopes that were demanded, if the reason is ``scope``."""

    def __init__(self, reason: Reason, scopes: Tuple[str, ...] = ()) -> None:
        super().__init__(_DETAILS[reason])
        self.reason = reason
        self.scopes = scopes
        self.status = 403 if reason in ("scope", "network") else 401

    @property
    def challenge(self) -> Optional[str]:
        if self.reason == "scope":
            # RFC 6749, section 3.3: scopes have neither `"` nor `\`.
            scopes = "".join(c for c in " ".join(self.scopes) if " " <= c <= "~" and c not in '"\\')
            return f'Bearer error="insufficient_scope", scope="{scopes}"'
        if self.reason == "network":
            return 'Bearer error="insufficient_scope"'
        return 'Bearer error="invalid_token", error_description="The token is not valid"'


class Unavailable(VerifyError):
    """The service could not be asked, so the token may be live or revoked. Answer with 503."""

    status = 503
