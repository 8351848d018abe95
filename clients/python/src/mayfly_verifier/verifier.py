"""The verifier: leases in memory, and the service where there is none."""

from __future__ import annotations

import asyncio
import hashlib
import re
import ssl
import weakref
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Iterable, List, Optional, Union

from .clock import now
from .engine import Asked, Engine, Stats, start_lock
from .errors import Rejected, Unavailable
from .service import Service, basic, bearer
from .token import Address, Token, check_demands, scopes_of

_MAX_JWT_CHARS = 8192
"""The longest JWT that is asked about. The service issues none of more than 6,000 bytes."""

_JWT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)


class Verifier:
    """Verifies tokens, in threads and in asyncio. One of them serves a whole process; it does no I/O until it is used.

    Each process that uses it asks the service ten times a second which tokens have changed, in a thread of its own that
    ends with the verifier. After a fork, the child begins anew.

    Args:
        url: The service, as in ``https://tokens.example``.
        username, password: A user with the role ``introspector``.
        token: Instead of both, a token of such a user. Replace it before it expires: `set_credentials`.
        capacity: The most tokens in memory, about 1 KiB each.
        timeout: The longest time in seconds for a verification that asks the service.
        concurrency: The most questions about tokens at once, each in a thread of its own.
        ssl_context: For ``https``, instead of the default context with the certificates of the system.
    """

    def __init__(
        self,
        url: str,
        *,
        username: Optional[str] = None,
        password: Optional[str] = None,
        token: Optional[str] = None,
        capacity: int = 65_536,
        timeout: float = 2.0,
        concurrency: int = 16,
        ssl_context: Optional[ssl.SSLContext] = None,
    ) -> None:
        if capacity < 1 or concurrency < 1 or not 0 < timeout < 3600:
            raise ValueError("capacity, concurrency and timeout are positive, and a timeout is less than an hour")
        self._service = Service(url, _authorization(username, password, token), ssl_context)
        self._settings = (capacity, timeout, concurrency)
        # In a list, so that the finalizer can stop it without a reference to this verifier.
        self._engines: List[Engine] = []
        self._closed = False
        self._finalizer = weakref.finalize(self, _stop, self._engines)

    def verify(
        self,
        jwt: str,
        *,
        scope: Union[str, Iterable[str]] = (),
        audience: Optional[str] = None,
        client: Union[str, Address, None] = None,
    ) -> Token:
        """Verifies a JWT: from memory while there is a lease, else by asking the service.

        Args:
            scope: Scopes that the token must have, as a text that separates them by spaces, or as several texts.
            audience: An audience that the token must have. A token without audiences has none.
            client: The address of the client. Without one, tokens that are bound to networks are rejected.

        Raises:
            Rejected: The token is not live or does not meet the demands. Answer with 401 or 403.
            Unavailable: The service could not be asked. Answer with 503.
        """
        asked_at = now()
        engine = self._engine()
        digest = _digest_of(jwt)
        token = engine.leases.find(digest, asked_at)
        if token is None:
            token = self._ask(engine, jwt, digest, asked_at)
        if scope or audience is not None or token.networks:
            check_demands(token, scopes_of(scope), audience, client)
        return token

    async def verify_async(
        self,
        jwt: str,
        *,
        scope: Union[str, Iterable[str]] = (),
        audience: Optional[str] = None,
        client: Union[str, Address, None] = None,
    ) -> Token:
        """`verify` for asyncio: does not block the event loop."""
        asked_at = now()
        engine = self._engine()
        digest = _digest_of(jwt)
        token = engine.leases.find(digest, asked_at)
        if token is None:
            token = await self._ask_async(engine, jwt, digest, asked_at)
        if scope or audience is not None or token.networks:
            check_demands(token, scopes_of(scope), audience, client)
        return token

    def set_credentials(
        self, *, username: Optional[str] = None, password: Optional[str] = None, token: Optional[str] = None
    ) -> None:
        """Logs in with these credentials from now on, for a password that changed or a token that expires."""
        self._service.authorization = _authorization(username, password, token)
        for engine in self._engines:
            engine.credentials_changed()

    def stats(self) -> Stats:
        """The numbers of events in this process so far."""
        return self._engine().stats()

    def close(self) -> None:
        """Ends the threads. Later verifications raise `Unavailable`."""
        self._closed = True
        self._finalizer()

    def __enter__(self) -> Verifier:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _engine(self) -> Engine:
        """The engine of this process."""
        engines = self._engines
        if engines and engines[0].is_of_this_process():
            return engines[0]
        with start_lock():
            if self._closed:
                raise Unavailable("the verifier is closed")
            if not engines or not engines[0].is_of_this_process():
                engines[:] = [Engine(self._service, *self._settings)]
            return engines[0]

    def _ask(self, engine: Engine, jwt: str, digest: bytes, asked_at: int) -> Token:
        deadline = asked_at + engine.timeout
        while True:
            flight = _question(engine, jwt, digest)
            try:
                asked = flight.result(max(0, deadline - now()) / 1e9)
            except FutureTimeout:
                raise Unavailable("no answer in time") from None
            token = _accept(engine, asked, digest, asked_at)
            if token is not None:
                return token

    async def _ask_async(self, engine: Engine, jwt: str, digest: bytes, asked_at: int) -> Token:
        deadline = asked_at + engine.timeout
        while True:
            flight = asyncio.wrap_future(_question(engine, jwt, digest))
            # Unlike `wait_for`, `wait` does not cancel the question, which other callers may share.
            done, _ = await asyncio.wait({flight}, timeout=max(0, deadline - now()) / 1e9)
            if not done:
                raise Unavailable("no answer in time")
            token = _accept(engine, flight.result(), digest, asked_at)
            if token is not None:
                return token


def _authorization(username: Optional[str], password: Optional[str], token: Optional[str]) -> str:
    if token is not None and username is None and password is None:
        return bearer(token)
    if token is None and username is not None and password is not None:
        return basic(username, password)
    raise ValueError("give either username and password, or token")


def _stop(engines: List[Engine]) -> None:
    for engine in engines:
        engine.stop()


def _digest_of(jwt: str) -> bytes:
    """The SHA-256 of a JWT. Raises `Rejected` for a text that cannot be one."""
    if len(jwt) > _MAX_JWT_CHARS or not jwt.isascii():
        raise Rejected("not_live")
    return hashlib.sha256(jwt.encode("ascii")).digest()


def _question(engine: Engine, jwt: str, digest: bytes) -> Future[Asked]:
    # Checked only here: no other text gets a lease.
    if not _JWT.fullmatch(jwt):
        raise Rejected("not_live")
    return engine.share_question(jwt, digest)


def _accept(engine: Engine, asked: Asked, digest: bytes, asked_at: int) -> Optional[Token]:
    """The token of an answer; ``None``: the service has to be asked again. Raises `Rejected` or `Unavailable`."""
    if asked.error is not None:
        raise Unavailable(asked.error)
    if asked.token is None:
        raise Rejected("not_live")
    # A question that was sent before the caller came may have been answered before a revocation. Its answer counts only
    # while there is a lease. The next question is sent later, so the caller asks again at most once.
    if asked.sent >= asked_at or engine.leases.find(digest, now()) is not None:
        return asked.token
    return None
