"""Middleware for WSGI: Flask, Django and others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, Optional, Union

from .errors import VerifyError
from .responses import bearer_token, problem
from .token import scopes_of
from .verifier import Verifier

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


def peer_address(environ: WSGIEnvironment) -> Optional[str]:
    """The address of the connection's other end. Behind a proxy, the server has to take it from the proxy's header."""
    address: Optional[str] = environ.get("REMOTE_ADDR")
    return address


class MayflyMiddleware:
    """Verifies the Bearer token of each request.

    The `Token` is ``environ["mayfly.token"]`` then. Any other request is answered with 401, 403 or 503.

    Args:
        app: The application.
        verifier: The verifier.
        scope, audience: As in `Verifier.verify`.
        client_address: Finds the client's address in an environment, for tokens that are bound to networks:
            `peer_address`, or a function of yours. Without one, these tokens are rejected.
    """

    def __init__(
        self,
        app: WSGIApplication,
        verifier: Verifier,
        *,
        scope: Union[str, Iterable[str]] = (),
        audience: Optional[str] = None,
        client_address: Optional[Callable[[WSGIEnvironment], Optional[str]]] = None,
    ) -> None:
        self._app = app
        self._verifier = verifier
        self._demands: Dict[str, Any] = {"scope": scopes_of(scope), "audience": audience}
        self._client_address = client_address

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        error: Optional[VerifyError] = None
        jwt = bearer_token(environ.get("HTTP_AUTHORIZATION"))
        if jwt is not None:
            client = None if self._client_address is None else self._client_address(environ)
            try:
                environ["mayfly.token"] = self._verifier.verify(jwt, client=client, **self._demands)
            except VerifyError as reason:
                error = reason
            else:
                return self._app(environ, start_response)
        status, headers, body = problem(error)
        start_response(f"{int(status)} {status.phrase}", headers)
        return [body]
