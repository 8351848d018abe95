"""The leases: what may be used until when. No I/O; the time is passed in. All times are in nanoseconds.

**An answer about a token** is true as of ``sent - age``: the replica's age, subtracted from when the question was sent,
both by the verifier's clock. It may be used until `LEASE` after that.

**A sequence of answers about changes** begins with a reset. Each later answer names all tokens that changed since the
answer before, as of its own ``sent - age``. So it renews, until `LEASE` after that, each token that is known to be live
as of a moment after the sequence began, and after the last answer that named the token arrived.

**Why that is sound.** A change that a read did not see was made after the moment as of which the read is true, so after
the sequence began. The replica that is asked for changes tells of it in an answer of the sequence whose ``sent - age``
is after the change, or it does not answer. In the first case that answer arrived after the change, so after the moment
as of which the read is true, and the token is dropped; it does not matter whether the answer arrived before the read,
during the read or after. In the second case nothing is renewed. What was not renewed lapses 250 ms after it was known
to be true, and a revocation is answered later than that.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import List, NamedTuple, Optional

from .token import Token
from .wire import Changes, Malformed

LEASE = 250_000_000
"""How long an answer may be used after it was known to be true. The service waits longer after each revocation."""

MAX_AGE = 30_000_000_000
"""How long a read is renewed. Then the token is read again: this bounds what follows from clocks that run apart, and
from changes that no answer names (signing keys that one replica reads before another)."""

_AGE_PRECISION = 1_000_000
"""The precision of an age, which the service rounds up to whole milliseconds."""

_MARKS = 1 << 14
"""The number of marks for named tokens, 128 KiB. Tokens whose ids have the same hash share a mark: a change of one
costs the others a read. Being shared, a mark is never unset."""


class Leased(NamedTuple):
    """A token under a lease."""

    token: Token
    mark: int
    """The index of its mark."""
    known_at: int
    """As of when it is known to be live."""
    ends_at: int
    """The latest end of the lease, however often it is renewed."""


class Question(NamedTuple):
    """A question about changes under way."""

    sent: int
    cursor: Optional[str]
    """The cursor to ask with."""


class LeaseTable:
    """The tokens that were read, and until when they may be used. Threads may share it."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        # The tokens by the digests of their JWTs; the one that was used last is at the end.
        self._tokens: OrderedDict[bytes, Leased] = OrderedDict()
        # For each hash of an id, when the last answer arrived that named a token with this hash.
        self._named_at: List[int] = [-1] * _MARKS
        # When the answer arrived that began the sequence; `None`: there is no sequence.
        self._begun_at: Optional[int] = None
        self._renewed_until = 0
        self._cursor: Optional[str] = None

    def find(self, digest: bytes, now: int) -> Optional[Token]:
        """The token of the JWT with this digest, if its lease holds."""
        with self._lock:
            leased = self._tokens.get(digest)
            if leased is None:
                return None
            token, mark, known_at, ends_at = leased
            until = known_at + LEASE
            if self._begun_at is not None and known_at >= self._begun_at:
                until = max(until, self._renewed_until)
            if now < min(until, ends_at) and self._named_at[mark] <= known_at:
                self._tokens.move_to_end(digest)
                return token
            return None

    def insert(self, digest: bytes, token: Token, life: int, age: int, sent: int, now: int) -> None:
        """Inserts a token that was read. The read was sent after `sent`, and its answer arrived before `now`.

        `life`: the rest of the token's life at `sent`. Raises `Malformed` if the age is longer than a lease and the
        time that the answer took: the service uses nothing that it has not known for longer than a lease to be true.
        """
        if age > LEASE + _AGE_PRECISION + (now - sent):
            raise Malformed("age_ms")
        leased = Leased(token, hash(token.id) % _MARKS, sent - age, sent + min(life, MAX_AGE))
        with self._lock:
            self._tokens[digest] = leased
            self._tokens.move_to_end(digest)
            if len(self._tokens) > self._capacity:
                self._tokens.popitem(last=False)

    def begin_question(self, now: int) -> Question:
        """Begins a question about changes, which has to be sent after `now`. There is one at a time."""
        return Question(now, self._cursor)

    def end_question(self, question: Question, changes: Changes, now: int) -> None:
        """Ends a question whose answer arrived before `now`. A question without an answer just ends."""
        with self._lock:
            for token_id in changes.tokens:
                self._named_at[hash(token_id) % _MARKS] = now
            self._cursor = changes.cursor
            if changes.reset:
                self._begun_at = now
            else:
                self._renewed_until = max(self._renewed_until, question.sent - changes.age + LEASE)

    def __len__(self) -> int:
        """The number of tokens in the table, with and without a lease."""
        return len(self._tokens)
