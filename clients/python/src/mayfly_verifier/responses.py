"""The responses of the middleware."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import List, Optional, Tuple

from .errors import VerifyError


def bearer_token(authorization: Optional[str]) -> Optional[str]:
    """The token of an ``Authorization`` header, if its scheme is ``Bearer``."""
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip(" ") if scheme.lower() == "bearer" else None


def problem(error: Optional[VerifyError]) -> Tuple[HTTPStatus, List[Tuple[str, str]], bytes]:
    """The status, headers and body (RFC 9457) for a request that is not accepted; ``None``: it has no token."""
    status = HTTPStatus(401 if error is None else error.status)
    detail = "The request has no token" if error is None else str(error) if status != 503 else "Try again in a moment"
    members = {"type": "about:blank", "title": status.phrase, "status": int(status), "detail": detail}
    body = json.dumps(members).encode()
    headers = [("Content-Type", "application/problem+json"), ("Content-Length", str(len(body)))]
    challenge = "Bearer" if error is None else error.challenge
    headers.append(("Retry-After", "1") if challenge is None else ("WWW-Authenticate", challenge))
    return status, headers, body
