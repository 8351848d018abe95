"""A dependency for FastAPI."""

# Without `from __future__ import annotations`: FastAPI reads the annotations.

from typing import Callable, Iterable, Optional, Union

from fastapi import HTTPException
from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection

from .errors import VerifyError
from .responses import bearer_token
from .token import Token, scopes_of
from .verifier import Verifier


def peer_address(request: HTTPConnection) -> Optional[str]:
    """The address of the connection's other end. Behind a proxy, the server has to take it from the proxy's header."""
    return request.client.host if request.client else None


class RequireToken(SecurityBase):
    """A dependency that verifies the Bearer token of a request, and returns the `Token`.

    Any other request is answered with 401, 403 or 503. OpenAPI documents show the scheme.

    Args:
        verifier: The verifier.
        scope, audience: As in `Verifier.verify`.
        client_address: Finds the client's address in a request, for tokens that are bound to networks: `peer_address`,
            or a function of yours. Without one, these tokens are rejected.
    """

    def __init__(
        self,
        verifier: Verifier,
        *,
        scope: Union[str, Iterable[str]] = (),
        audience: Optional[str] = None,
        client_address: Optional[Callable[[HTTPConnection], Optional[str]]] = None,
    ) -> None:
        self.model = HTTPBearer(bearerFormat="JWT")
        self.scheme_name = "Mayfly"
        self._verifier = verifier
        self._scopes = scopes_of(scope)
        self._audience = audience
        self._client_address = client_address

    async def __call__(self, request: HTTPConnection) -> Token:
        values = request.headers.getlist("authorization")
        jwt = bearer_token(values[0]) if len(values) == 1 else None
        if jwt is None:
            raise HTTPException(401, "The request has no token", {"WWW-Authenticate": "Bearer"})
        client = None if self._client_address is None else self._client_address(request)
        try:
            return await self._verifier.verify_async(jwt, scope=self._scopes, audience=self._audience, client=client)
        except VerifyError as error:
            challenge = error.challenge
            headers = {"Retry-After": "1"} if challenge is None else {"WWW-Authenticate": challenge}
            detail = "Try again in a moment" if error.status == 503 else str(error)
            raise HTTPException(error.status, detail, headers) from error
