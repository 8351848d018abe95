"""Middleware for ASGI: FastAPI, Starlette, Django and others."""

from __future__ import annotations

from typing import Any, Awaitable, Callable, Dict, Iterable, List, MutableMapping, Optional, Tuple, Union

from .errors import VerifyError
from .responses import bearer_token, problem
from .token import scopes_of
from .verifier import Verifier

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def peer_address(scope: Scope) -> Optional[str]:
    """The address of the connection's other end. Behind a proxy, the server has to take it from the proxy's header."""
    peer = scope.get("client")
    return peer[0] if peer else None


class MayflyMiddleware:
    """Verifies the Bearer token of each request and of the opening of each WebSocket.

    The `Token` is ``scope["state"]["mayfly_token"]`` then: ``request.state.mayfly_token`` in Starlette and FastAPI. Any
    other request is answered with 401, 403 or 503.

    Args:
        app: The application.
        verifier: The verifier.
        scope, audience: As in `Verifier.verify`.
        client_address: Finds the client's address in an ASGI scope, for tokens that are bound to networks:
            `peer_address`, or a function of yours. Without one, these tokens are rejected.
    """

    def __init__(
        self,
        app: App,
        verifier: Verifier,
        *,
        scope: Union[str, Iterable[str]] = (),
        audience: Optional[str] = None,
        client_address: Optional[Callable[[Scope], Optional[str]]] = None,
    ) -> None:
        self._app = app
        self._verifier = verifier
        self._demands: Dict[str, Any] = {"scope": scopes_of(scope), "audience": audience}
        self._client_address = client_address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        error: Optional[VerifyError] = None
        jwt = _presented(scope["headers"])
        if jwt is not None:
            client = None if self._client_address is None else self._client_address(scope)
            try:
                token = await self._verifier.verify_async(jwt, client=client, **self._demands)
            except VerifyError as reason:
                error = reason
            else:
                scope["state"] = {**scope.get("state", {}), "mayfly_token": token}
                await self._app(scope, receive, send)
                return
        await _refuse(scope, send, error)


def _presented(headers: Iterable[Tuple[bytes, bytes]]) -> Optional[str]:
    """The token of the one ``Authorization`` header."""
    values = [value for name, value in headers if name == b"authorization"]
    return bearer_token(values[0].decode("latin-1")) if len(values) == 1 else None


async def _refuse(scope: Scope, send: Send, error: Optional[VerifyError]) -> None:
    status, headers, body = problem(error)
    raw: List[Tuple[bytes, bytes]] = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    kind = "http"
    if scope["type"] == "websocket":
        if "websocket.http.response" not in scope.get("extensions", {}):
            # The server answers 403. The code (RFC 6455: 1008 policy, 1013 try again later) is for its log.
            await send({"type": "websocket.close", "code": 1013 if status == 503 else 1008})
            return
        kind = "websocket.http"
    await send({"type": f"{kind}.response.start", "status": int(status), "headers": raw})
    await send({"type": f"{kind}.response.body", "body": body})
