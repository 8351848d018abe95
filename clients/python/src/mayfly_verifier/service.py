"""Sends questions to the service over HTTP."""

from __future__ import annotations

import base64
import http.client
import ssl
from typing import NamedTuple, Optional, Union
from urllib.parse import urlsplit

from .clock import now

MAX_ANSWER_BYTES = 1 << 20
"""The most bytes of an answer. The service names at most 4,096 changes, in 160 KiB."""

_READ_BYTES = 65_536

Connection = Union[http.client.HTTPConnection, http.client.HTTPSConnection]


class Answer(NamedTuple):
    """A response."""

    status: int
    body: bytes
    date: Optional[str]
    """The ``Date`` header."""


class NoAnswer(Exception):
    """The service could not be reached, the connection broke, or the answer took too long."""


class Service:
    """The service at a URL, and the credentials for it."""

    def __init__(self, url: str, authorization: str, ssl_context: Optional[ssl.SSLContext]) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("not an http:// or https:// URL")
        if parts.username is not None or parts.password is not None:
            raise ValueError("give the credentials as arguments, not in the URL")
        self._address = (parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))
        self._base = parts.path.rstrip("/")
        self._tls = (ssl_context or ssl.create_default_context()) if parts.scheme == "https" else None
        self.authorization = authorization

    def connect(self) -> Connection:
        """A connection, which is opened by its first request."""
        host, port = self._address
        if self._tls is not None:
            return http.client.HTTPSConnection(host, port, context=self._tls)
        return http.client.HTTPConnection(host, port)

    def changes(self, connection: Connection, cursor: Optional[str], deadline: int) -> Answer:
        """Asks which tokens have changed since this cursor, which has only characters that a URL may have."""
        query = "" if cursor is None else f"?after={cursor}"
        return self._send(connection, "GET", f"/api/v1alpha/changes{query}", None, deadline)

    def introspect(self, connection: Connection, jwt: str, deadline: int) -> Answer:
        """Asks about a token. Its JWT has only characters that need no encoding in a form."""
        return self._send(connection, "POST", "/oauth2/introspect", f"token={jwt}".encode("ascii"), deadline)

    def _send(self, connection: Connection, method: str, path: str, body: Optional[bytes], deadline: int) -> Answer:
        """Raises `NoAnswer`; the connection is closed then."""
        headers = {"Authorization": self.authorization, "User-Agent": "mayfly-verifier-python", "Accept": "*/*"}
        if body is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        try:
            connection.timeout = _seconds_until(deadline)
            if connection.sock is not None:
                connection.sock.settimeout(connection.timeout)
            connection.request(method, self._base + path, body, headers)
            socket = connection.sock
            response = connection.getresponse()
            received = bytearray()
            while chunk := response.read1(_READ_BYTES):
                received += chunk
                if len(received) > MAX_ANSWER_BYTES:
                    raise http.client.HTTPException("the answer is too long")
                socket.settimeout(_seconds_until(deadline))
            # Nothing is left, so this only ends the response, or raises if it is shorter than announced.
            response.read()
            return Answer(response.status, bytes(received), response.headers.get("Date"))
        except (OSError, ValueError, http.client.HTTPException) as error:
            connection.close()
            raise NoAnswer(str(error) or type(error).__name__) from error


def basic(username: str, password: str) -> str:
    """The ``Authorization`` header of a user's name and password."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode("ascii")


def bearer(token: str) -> str:
    """The ``Authorization`` header of a token."""
    token = token.strip()
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("not a token")
    return f"Bearer {token}"


def _seconds_until(deadline: int) -> float:
    remaining = deadline - now()
    if remaining <= 0:
        raise TimeoutError("no answer in time")
    return remaining / 1e9
