"""The examples under gunicorn and uvicorn, each with several processes."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import Any, Callable, Dict, List, Tuple

import pytest
from conftest import App, Service

from mayfly_verifier import asgi

UVICORN = ("uvicorn", "--port", "PORT", "--workers", "2", "--log-level", "error")
GUNICORN = ("gunicorn", "--bind", "127.0.0.1:PORT", "--workers", "2", "--log-level", "error")

SERVERS = {
    "FastAPI under uvicorn": (*UVICORN, "fastapi_app:app"),
    "Flask under gunicorn": (*GUNICORN, "flask_app:app"),
    "Flask under gunicorn with threads, forked after the import": (
        *GUNICORN,
        "--threads",
        "4",
        "--preload",
        "flask_app:app",
    ),
    "Flask under gunicorn, forked after the first verification": (*GUNICORN, "--preload", "preloaded:app"),
    "Django under gunicorn": (*GUNICORN, "django_app:application"),
    "Django under uvicorn": (*UVICORN, "django_app:asgi_application"),
}


@pytest.mark.parametrize("server", SERVERS)
def test_no_process_accepts_a_revoked_token(service: Service, start: Callable[..., Any], server: str) -> None:
    app = start(App, service, *SERVERS[server])
    for _ in range(2):
        token_id, jwt = service.issue()
        for _ in range(20):
            status, _, body = app.get(jwt)
            assert (status, b"hello, admin" in body) == (200, True), body
        service.revoke(token_id)
        for _ in range(20):
            status, headers, body = app.get(jwt)
            assert status == 401, body
            assert 'error="invalid_token"' in headers.get("WWW-Authenticate", headers.get("www-authenticate", ""))


def test_a_process_that_was_stopped_accepts_no_revoked_token(service: Service, start: Callable[..., Any]) -> None:
    app = start(App, service, "uvicorn", "--port", "PORT", "--log-level", "error", "fastapi_app:app")
    for _ in range(5):
        token_id, jwt = service.issue()
        for _ in range(5):
            assert app.get(jwt)[0] == 200
        app.signal(signal.SIGSTOP)
        service.revoke(token_id)
        app.signal(signal.SIGCONT)
        for _ in range(5):
            assert app.get(jwt)[0] == 401


def test_fastapi_answers_with_the_right_status_and_documents_the_scheme(
    service: Service, start: Callable[..., Any]
) -> None:
    app = start(App, service, "uvicorn", "--port", "PORT", "--log-level", "error", "fastapi_app:app")
    _, jwt = service.issue()
    status, headers, _ = app.get(jwt, "/admin")
    assert (status, headers["www-authenticate"]) == (403, 'Bearer error="insufficient_scope", scope="admin"')
    assert app.get(None)[1]["www-authenticate"] == "Bearer"
    document = json.loads(app.get(None, "/openapi.json")[2])
    assert document["components"]["securitySchemes"]["Mayfly"]["scheme"] == "bearer"
    assert document["paths"]["/"]["get"]["security"] == [{"Mayfly": []}]


@pytest.mark.parametrize("module", [("uvicorn", "fastapi_app:app"), ("gunicorn", "flask_app:app")])
def test_an_application_says_503_while_the_service_is_away(start: Callable[..., Any], module: Tuple[str, str]) -> None:
    service = start(Service)
    arguments = {"uvicorn": ("--port", "PORT"), "gunicorn": ("--bind", "127.0.0.1:PORT")}[module[0]]
    app = start(App, service, module[0], *arguments, module[1])
    _, jwt = service.issue()
    assert app.get(jwt)[0] == 200
    service.end()
    for _ in range(20):
        status, headers, _ = app.get("a.b.c")
        assert (status, headers.get("Retry-After", headers.get("retry-after"))) == (503, "1")


class Accepting:
    """A verifier that accepts one token."""

    async def verify_async(self, jwt: str, **_: Any) -> str:
        from mayfly_verifier import Rejected, Unavailable

        if jwt == "good":
            return "token"
        raise Rejected("not_live") if jwt == "bad" else Unavailable("away")


def run(kind: str, headers: List[Tuple[bytes, bytes]], extensions: Dict[str, Any]) -> List[Any]:
    sent: List[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        sent.append(scope.get("state", {}).get("mayfly_token"))

    async def send(message: Any) -> None:
        sent.append(message.get("status") or message.get("code") or message["type"])

    scope = {"type": kind, "headers": headers, "extensions": extensions}
    asyncio.run(asgi.MayflyMiddleware(app, Accepting())(scope, lambda: None, send))  # type: ignore[arg-type]
    return sent


def test_asgi_middleware() -> None:
    def bearer(jwt: str) -> Tuple[bytes, bytes]:
        return (b"authorization", f"bEARER {jwt}".encode())

    denial = {"websocket.http.response": {}}
    assert run("http", [bearer("good")], {}) == ["token"] == run("websocket", [bearer("good")], {})
    assert run("lifespan", [], {}) == [None]
    for headers, status, code in [
        ([bearer("bad")], 401, 1008),
        ([bearer("unsure")], 503, 1013),
        ([], 401, 1008),
        ([bearer("good"), bearer("good")], 401, 1008),
        ([(b"authorization", b"Basic good")], 401, 1008),
        ([(b"authorization", b"Bearer\xff good")], 401, 1008),
    ]:
        assert run("http", headers, {}) == [status, "http.response.body"]
        assert run("websocket", headers, denial) == [status, "websocket.http.response.body"]
        assert run("websocket", headers, {}) == [code]
