"""The verifier with a service of the test: it lies, it is slow, and it says what the real one does not say yet."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import pytest
from conftest import eventually

from mayfly_verifier import Rejected, Unavailable, Verifier

ID = "b56929f3-54f1-4dc2-9984-9bba615e26e6"
LIVE = {"active": True, "username": "alice", "jti": ID, "exp": 4_000_000_000, "age_ms": 1}
CHANGES = {"cursor": "1", "age_ms": 1, "reset": False, "tokens": []}
JWT = "a.b.c"


class Liar(ThreadingHTTPServer):
    """Answers as the test says: a status and a body."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.introspect: Callable[[], Tuple[int, bytes]] = lambda: (200, json.dumps(LIVE).encode())
        self.changes: Callable[[str], Tuple[int, bytes]] = lambda path: (503, b"")
        self.connections = 0
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def verifier(self, **options: Any) -> Verifier:
        return Verifier(f"http://127.0.0.1:{self.server_port}", username="a", password="b", **options)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Liar

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_GET(self) -> None:
        self.answer(*self.server.changes(self.path))

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(*self.server.introspect())

    def answer(self, status: int, body: bytes) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def liar() -> Iterator[Liar]:
    server = Liar()
    yield server
    server.shutdown()
    server.server_close()


def live(**members: Any) -> Callable[[], Tuple[int, bytes]]:
    return lambda: (200, json.dumps({**LIVE, **members}).encode())


@pytest.mark.parametrize("age", [-1, 1.5, float("nan"), float("inf"), True, None, "1", 10**6, 10**17, 10**400])
def test_an_answer_with_an_impossible_age_is_no_answer(liar: Liar, age: Any) -> None:
    liar.introspect = live(age_ms=age)
    with liar.verifier() as verifier, pytest.raises(Unavailable):
        verifier.verify(JWT)


@pytest.mark.parametrize(
    "answer",
    [(200, b"{}"), (200, b"[" * 4096), (200, b"x" * 2_000_000), (204, b""), (302, b""), (418, b""), (500, b"")],
)
def test_an_answer_that_is_none_is_unavailable(liar: Liar, answer: Tuple[int, bytes]) -> None:
    liar.introspect = lambda: answer
    with liar.verifier() as verifier, pytest.raises(Unavailable):
        verifier.verify(JWT)


@pytest.mark.parametrize(
    "member",
    [
        {"age_ms": -1},
        {"age_ms": float("nan")},
        {"age_ms": None},
        {"cursor": "\r\n"},
        {"tokens": ["x"]},
        {"reset": None},
    ],
)
def test_malformed_changes_renew_nothing_and_the_next_question_repeats_the_cursor(
    liar: Liar, member: Dict[str, Any]
) -> None:
    asked: List[str] = []

    def changes(path: str) -> Tuple[int, bytes]:
        asked.append(path.partition("after=")[2])
        first = {**CHANGES, "cursor": "first", "reset": True}
        return 200, json.dumps(first if len(asked) == 1 else {**CHANGES, "cursor": "other", **member}).encode()

    liar.changes = changes
    with liar.verifier() as verifier:
        verifier.verify(JWT)
        eventually("it asked some times", lambda: len(asked) > 3)
        assert set(asked[1:]) == {"first"}
        assert verifier.stats().renewals == 0


# While answers fail, the pauses grow to a second.
@pytest.mark.parametrize(("count", "answer"), [(30, (200, CHANGES)), (5, (200, {})), (5, (503, {}))])
def test_a_verifier_asks_at_most_twelve_times_a_second(liar: Liar, count: int, answer: Tuple[int, Any]) -> None:
    asked: List[float] = []

    def changes(path: str) -> Tuple[int, bytes]:
        asked.append(time.monotonic())
        return answer[0], json.dumps(answer[1]).encode()

    liar.changes = changes
    with liar.verifier() as verifier:
        verifier.verify(JWT)
        eventually("it asks", lambda: len(asked) >= count)
    assert (len(asked) - 1) / (asked[-1] - asked[0]) <= 12


def test_a_late_caller_does_not_trust_a_question_that_was_sent_before(liar: Liar) -> None:
    """The first answer is from before a revocation that was answered before the second caller came."""
    arrived, revoked = threading.Event(), threading.Event()
    answers = [live(age_ms=0)(), (200, b'{"active":false}')]

    def introspect() -> Tuple[int, bytes]:
        answer = answers.pop(0)
        arrived.set()
        assert revoked.wait(30)
        return answer

    liar.introspect = introspect
    results: List[Any] = []
    with liar.verifier(timeout=30) as verifier:

        def verify() -> None:
            try:
                results.append(verifier.verify(JWT))
            except Rejected as rejected:
                results.append(rejected)

        first = threading.Thread(target=verify)
        first.start()
        assert arrived.wait(30)
        # As long as a revocation waits at least before it is answered.
        threading.Event().wait(0.3)
        second = threading.Thread(target=verify)
        second.start()
        eventually("the second caller waits for the same question", lambda: second.is_alive())
        threading.Event().wait(0.1)
        revoked.set()
        first.join()
        second.join()
    assert sorted(type(result).__name__ for result in results) == ["Rejected", "Token"]


def test_questions_are_bounded_and_shared(liar: Liar) -> None:
    go = threading.Event()
    liar.introspect = lambda: (go.wait(30), live()())[1]
    with liar.verifier(timeout=30, concurrency=2) as verifier:
        outcomes: List[Optional[Exception]] = []

        def verify(number: int) -> None:
            try:
                verifier.verify(f"a.b.{number}")
                outcomes.append(None)
            except Unavailable as error:
                outcomes.append(error)

        # 32 wait for two threads, eight find no place; each token has two callers.
        threads = [threading.Thread(target=verify, args=(number % 40,)) for number in range(80)]
        for thread in threads:
            thread.start()
        eventually("eight find no place", lambda: len(outcomes) == 16)
        # Two questions, and one about changes.
        assert liar.connections <= 3
        go.set()
        for thread in threads:
            thread.join()
        assert sum(outcome is None for outcome in outcomes) == 64


@pytest.mark.parametrize(
    ("demands", "expected"),
    [
        ({}, "network"),
        ({"client": "192.0.2.7"}, None),
        ({"client": "::ffff:192.0.2.7"}, None),
        ({"client": "198.51.100.7"}, "network"),
        ({"client": "unix:"}, "network"),
        ({"client": "192.0.2.7", "scope": "read write"}, None),
        ({"client": "192.0.2.7", "scope": ["read", "admin"]}, "scope"),
        ({"client": "192.0.2.7", "scope": "rea"}, "scope"),
        ({"client": "192.0.2.7", "audience": "shop"}, None),
        ({"client": "192.0.2.7", "audience": "shops"}, "audience"),
    ],
)
def test_all_demands_hold_together(liar: Liar, demands: Dict[str, Any], expected: Optional[str]) -> None:
    liar.introspect = live(scope="read write", aud=["shop"], networks=["192.0.2.0/24"])
    with liar.verifier() as verifier:
        # Read, then from memory.
        for _ in range(2):
            try:
                verifier.verify(JWT, **demands)
                reason = None
            except Rejected as rejected:
                reason = rejected.reason
                assert rejected.status == (401 if reason == "audience" else 403)
            assert reason == expected


def test_challenges() -> None:
    assert Rejected("not_live").challenge == 'Bearer error="invalid_token", error_description="The token is not valid"'
    assert Rejected("scope", ("a", 'b"\r\n')).challenge == 'Bearer error="insufficient_scope", scope="a b"'
    assert Unavailable("x").challenge is None and Unavailable("x").status == 503


@pytest.mark.parametrize(
    "url", ["", "tokens.example", "ftp://a", "http://", "http://a?b", "http://a:b@c", "http://a:x"]
)
def test_an_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        Verifier(url, username="a", password="b")
