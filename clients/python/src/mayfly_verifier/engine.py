"""What a verifier has in one process: leases, a thread that renews them, and threads that ask about tokens."""

from __future__ import annotations

import concurrent.futures
import logging
import os
import threading
import time
from collections import deque
from email.utils import parsedate_to_datetime
from typing import Deque, Dict, NamedTuple, Optional

from . import wire
from .clock import now
from .errors import Unavailable
from .service import Answer, Connection, NoAnswer, Service
from .state import LeaseTable
from .token import Token

_MS = 1_000_000
_SECOND = 1_000_000_000

_QUESTION_INTERVAL = 100 * _MS
"""The time between two questions about changes."""

_QUESTION_TIMEOUT = 500 * _MS
"""The longest wait for an answer about changes. Twice as long as an answer can renew anything."""

_MAX_RETRY_PAUSE = _SECOND
_CREDENTIALS_RETRY_PAUSE = 10 * _SECOND
"""The longest time between two questions about changes while they fail, and while the credentials are rejected: each
question with a wrong password counts as a failed login."""

_WAITING_PER_THREAD = 16
"""How many questions about tokens may be under way or wait, per thread."""

_log = logging.getLogger("mayfly_verifier")

_forks = 0
_start_lock = threading.Lock()


def _forget_parent() -> None:
    global _forks, _start_lock
    _forks += 1
    _start_lock = threading.Lock()


# Threads do not survive a fork, locks may be held for ever, and a connection must not be shared: each process has
# engines of its own.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)


def start_lock() -> threading.Lock:
    """Held to start the engine of this process."""
    return _start_lock


class Asked(NamedTuple):
    """The end of a question about a token."""

    sent: int
    """When it was sent."""
    token: Optional[Token]
    """The token, if it is live."""
    error: Optional[str] = None
    """Why there is no answer."""


class Stats(NamedTuple):
    """Numbers of events in this process."""

    questions: int
    """Questions to the service about tokens."""
    failures: int
    """Questions about tokens that failed."""
    renewals: int
    """Answers about changes that renewed the leases."""
    resets: int
    """Answers about changes that began a new sequence: each token in use was asked about again."""
    tokens: int
    """Tokens in memory, with and without a lease."""


class Engine:
    """Everything that belongs to one process. After a fork, it is not used any more."""

    def __init__(self, service: Service, capacity: int, timeout: float, concurrency: int) -> None:
        self.leases = LeaseTable(capacity)
        self.timeout = int(timeout * _SECOND)
        self._service = service
        self._forks = _forks
        self._lock = threading.Lock()
        self._stopped = False
        # Ends the pause between two questions about changes.
        self._wake = threading.Event()
        # The questions about tokens under way, which concurrent callers share.
        self._flights: Dict[bytes, concurrent.futures.Future[Asked]] = {}
        self._max_flights = concurrency * _WAITING_PER_THREAD
        self._executor = concurrent.futures.ThreadPoolExecutor(concurrency, "mayfly-verifier")
        self._idle: Deque[Connection] = deque()
        # Until then the service is not asked about tokens, as it rejected the credentials.
        self._paused_until = 0
        # Set while the service has confirmed that the user may introspect: to others it says of all tokens that they
        # are not live.
        self._may_introspect = threading.Event()
        self._questions = self._failures = self._renewals = self._resets = 0
        threading.Thread(target=self._renew, name="mayfly-verifier-changes", daemon=True).start()

    def is_of_this_process(self) -> bool:
        """Whether the process has not forked since."""
        return self._forks == _forks

    def stop(self) -> None:
        """Ends the threads, unless they were those of the parent process."""
        if self.is_of_this_process():
            self._stopped = True
            self._wake.set()
            self._executor.shutdown(wait=False)
            while self._idle:
                self._idle.pop().close()

    def credentials_changed(self) -> None:
        """Asks at once again, though the former credentials were rejected."""
        if self.is_of_this_process():
            self._paused_until = 0
            self._wake.set()

    def stats(self) -> Stats:
        return Stats(self._questions, self._failures, self._renewals, self._resets, len(self.leases))

    def share_question(self, jwt: str, digest: bytes) -> concurrent.futures.Future[Asked]:
        """The question about this token that is under way, or else a new one. Raises `Unavailable`."""
        with self._lock:
            flight = self._flights.get(digest)
            if flight is None:
                if len(self._flights) >= self._max_flights:
                    raise Unavailable("too many tokens are being verified at once")
                try:
                    flight = self._executor.submit(self._end_question, jwt, digest, now() + self.timeout)
                except RuntimeError as error:
                    raise Unavailable("the verifier is closed") from error
                self._flights[digest] = flight
            return flight

    def _end_question(self, jwt: str, digest: bytes, deadline: int) -> Asked:
        try:
            asked = self._ask(jwt, digest, deadline)
        except Exception as error:  # Whatever went wrong, it is no answer.
            _log.exception("a token could not be verified")
            asked = Asked(0, None, type(error).__name__)
        with self._lock:
            del self._flights[digest]
            self._failures += asked.error is not None
        return asked

    def _ask(self, jwt: str, digest: bytes, deadline: int) -> Asked:
        """Asks about a token, and again if the first answer failed: another replica may answer."""
        for connection in (self._idle_connection(), self._service.connect()):
            sent = now()
            if sent < self._paused_until:
                return Asked(sent, None, "the service rejected the credentials a moment ago")
            with self._lock:
                self._questions += 1
            try:
                answer = self._service.introspect(connection, jwt, deadline)
            except NoAnswer as error:
                asked = Asked(sent, None, f"no answer: {error}")
                continue
            if answer.status < 500:
                self._idle.append(connection)
                return self._understand(answer, digest, sent, deadline)
            # A load balancer may have another replica for the next connection.
            connection.close()
            asked = Asked(sent, None, f"the service answered with HTTP {answer.status}")
        return asked

    def _understand(self, answer: Answer, digest: bytes, sent: int, deadline: int) -> Asked:
        if answer.status != 200:
            if answer.status in (401, 403, 429):
                self._paused_until = sent + _MAX_RETRY_PAUSE
            return Asked(sent, None, f"the service answered with HTTP {answer.status}")
        try:
            read = wire.parse_introspection(answer.body)
            if read is not None:
                life = _remaining_life(read.token.expires_at, answer.date)
                self.leases.insert(digest, read.token, life, read.age, sent, now())
                return Asked(sent, read.token)
        except wire.Malformed as error:
            return Asked(sent, None, f"the answer cannot be understood: {error}")
        if not self._may_introspect.wait((deadline - now()) / _SECOND):
            return Asked(sent, None, "the service has not confirmed that this user may introspect")
        return Asked(sent, None)

    def _idle_connection(self) -> Connection:
        try:
            return self._idle.pop()
        except IndexError:
            return self._service.connect()

    def _renew(self) -> None:
        """Asks the service ten times a second which tokens have changed."""
        connection, failures = self._service.connect(), 0
        while not self._stopped:
            begun = now()
            pause = min(_MAX_RETRY_PAUSE, _QUESTION_INTERVAL * (failures + 1))
            try:
                status = self._ask_changes(connection)
                error = None if status == 200 else f"the service answered with HTTP {status}"
                if status in (401, 403, 404, 429):
                    pause = _CREDENTIALS_RETRY_PAUSE
            except (NoAnswer, wire.Malformed) as failure:
                error = str(failure)
            except Exception as failure:  # Whatever went wrong, nothing was renewed. The thread goes on.
                _log.exception("the changes could not be asked for")
                error = type(failure).__name__
            if error is None:
                pause = _QUESTION_INTERVAL
                if failures:
                    _log.info("leases on tokens are renewed again")
            elif not failures:
                _log.warning("leases on tokens are not renewed, and the service is asked about each token: %s", error)
            failures = 0 if error is None else failures + 1
            self._wake.wait(max(0, begun + pause - now()) / _SECOND)
            self._wake.clear()
        connection.close()

    def _ask_changes(self, connection: Connection) -> int:
        """Asks once, and returns the status of the answer."""
        question = self.leases.begin_question(now())
        answer = self._service.changes(connection, question.cursor, question.sent + _QUESTION_TIMEOUT)
        # 503: the user may ask, and the replica does not know.
        if answer.status in (200, 503):
            self._may_introspect.set()
        elif answer.status in (401, 403):
            self._may_introspect.clear()
        if answer.status == 200:
            changes = wire.parse_changes(answer.body)
            self.leases.end_question(question, changes, now())
            self._resets += changes.reset
            self._renewals += not changes.reset
        return answer.status


def _remaining_life(expires_at: int, date: Optional[str]) -> int:
    """The rest of a token's life in nanoseconds, by the clock of the service or this machine's, whichever is ahead."""
    by_service = 0
    try:
        # The header has whole seconds. The end of that second errs to the safe side.
        by_service = (int(parsedate_to_datetime(date).timestamp()) + 1) * _SECOND if date else 0
    except (TypeError, ValueError, OverflowError):
        pass
    return expires_at * _SECOND - max(by_service, time.time_ns())
