"""A real service, started by the path in MAYFLY_BINARY, and clients of it."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import pytest

from mayfly_verifier import Verifier

PACKAGE = Path(__file__).parent.parent
BINARY = os.environ.get("MAYFLY_BINARY") or str(PACKAGE.parent.parent / "target/debug/mayfly")
PASSWORD = "correct horse battery staple"
PATIENCE = 60.0
"""Longer than any step takes on the slowest machine: only keeps a test from hanging."""


def eventually(what: str, condition: Callable[[], Any]) -> Any:
    """Waits for a condition, and returns its first true value."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError(f"in {PATIENCE} s: {what}")


def request(
    url: str, method: str, path: str, authorization: Optional[str], body: Any = None, timeout: float = PATIENCE
) -> Tuple[int, Dict[str, str], bytes]:
    """Sends a request on a connection of its own."""
    connection = http.client.HTTPConnection(url.split("//")[1], timeout=timeout)
    headers = {} if authorization is None else {"Authorization": authorization}
    if body is not None:
        headers["Content-Type"] = "application/json"
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, dict(response.headers), response.read()
    finally:
        connection.close()


def _is_stopped(task: Path) -> bool:
    # The name in parentheses, then the state.
    return (task / "stat").read_text().rpartition(")")[2].startswith(" T")


class Process:
    """A process that is killed with its children at the end of a test."""

    def __init__(self, command: List[str], env: Dict[str, str], **options: Any) -> None:
        self.child = subprocess.Popen(command, env=env, start_new_session=True, **options)

    def signal(self, number: int) -> None:
        """Sends a signal to the process. SIGSTOP returns once it has stopped."""
        self.child.send_signal(number)
        if number == signal.SIGSTOP:
            tasks = Path(f"/proc/{self.child.pid}/task")
            eventually("the process stops", lambda: all(map(_is_stopped, tasks.iterdir())))

    def end(self) -> None:
        try:
            os.killpg(self.child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.child.wait()


class Service(Process):
    """The service; without other settings, with the embedded store, whose tokens are gone when it stops."""

    def __init__(self, port: int = 0, settings: Optional[Dict[str, str]] = None) -> None:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("MAYFLY_", "OTEL_"))}
        env.update(MAYFLY_LISTEN=f"127.0.0.1:{port}", MAYFLY_METRICS_LISTEN="off", MAYFLY_ADMIN_PASSWORD=PASSWORD)
        env.update(settings or {})
        super().__init__([BINARY], env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.child.stdout is not None
        self.url = next(word for word in self.child.stdout.readline().split() if word.startswith("http"))
        # The rest is not used, but a closed pipe would be an error for the service.
        threading.Thread(target=self.child.stdout.read, daemon=True).start()
        eventually("the service is ready", lambda: request(self.url, "GET", "/readyz", None)[0] == 200)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def call(self, method: str, path: str, body: Any = None, user: str = "admin", password: str = PASSWORD) -> Any:
        login = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        status, _, answer = request(self.url, method, f"/api/v1alpha{path}", login, body)
        assert status < 300, answer
        return json.loads(answer) if answer else None

    def issue(self, life: str = "1 hour", **fields: Any) -> Tuple[str, str]:
        """Issues a token, and returns its id and JWT."""
        answer = self.call("POST", "/token", {"jwt_token_description": "test", "jwt_token_life": life, **fields})
        return answer["jwt_token_id"], answer["jwt_token"]

    def revoke(self, token_id: str) -> None:
        self.call("DELETE", f"/token/{token_id}")

    def verifier(self, **options: Any) -> Verifier:
        return Verifier(self.url, username="admin", password=PASSWORD, **options)


class App(Process):
    """An application under a server for ASGI or WSGI, with a verifier of the service."""

    def __init__(self, service: Service, module: str, *arguments: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        env = {**os.environ, "PYTHONPATH": f"{PACKAGE / 'src'}:{PACKAGE / 'examples'}:{PACKAGE / 'tests'}"}
        env.update(MAYFLY_URL=service.url, MAYFLY_USER="admin", MAYFLY_PASSWORD=PASSWORD)
        arguments = tuple(argument.replace("PORT", str(port)) for argument in arguments)
        super().__init__([sys.executable, "-m", module, *arguments], env, stderr=subprocess.DEVNULL)
        self.url = f"http://127.0.0.1:{port}"
        eventually(f"{module} answers", self._answers)

    def _answers(self) -> bool:
        assert self.child.poll() is None, f"it ended: {self.child.args}"
        try:
            return self.get(None)[0] == 401
        except OSError:
            return False

    def get(self, jwt: Optional[str], path: str = "/") -> Tuple[int, Dict[str, str], bytes]:
        return request(self.url, "GET", path, None if jwt is None else f"Bearer {jwt}")


@pytest.fixture
def start() -> Iterator[Callable[..., Any]]:
    """Starts processes of this test, which are killed after it."""
    started: List[Process] = []

    def start(kind: Callable[..., Process], *arguments: Any) -> Process:
        started.append(kind(*arguments))
        return started[-1]

    yield start
    for process in started:
        process.end()


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    """A service that all tests share, which do not stop it."""
    service = Service()
    yield service
    service.end()
