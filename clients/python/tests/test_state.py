"""The state machine in random interleavings with a service that revokes tokens, and with each safeguard removed."""

from __future__ import annotations

import heapq
import itertools
import random
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Optional, Set

import pytest

import mayfly_verifier.state
from mayfly_verifier.token import Token
from mayfly_verifier.wire import Changes, Malformed

MS = 1_000_000
LEASE = 250 * MS
SCHEDULES = 1_000
STATE = Path(mayfly_verifier.state.__file__).read_text()


def token(number: int, expires_at: int = 0) -> Token:
    return Token(f"{number:08x}-0000-4000-8000-000000000000", "alice", None, expires_at, None, (), (), ())


@dataclass
class Replica:
    """Knows the changes up to a position, and continues cursors of its present start."""

    number: int
    start: int = 0


@dataclass
class Service:
    """The truth: an answer rests on the moment `known`, and may have seen later changes, too."""

    chance: random.Random
    replicas: List[Replica]
    changes: List[tuple] = field(default_factory=list)  # (when, token)

    def revoked_at(self, number: int) -> Optional[int]:
        return next((when for when, changed in self.changes if changed == number), None)

    def seen(self, until: int) -> int:
        return sum(when <= until for when, _ in self.changes)

    def answer_changes(self, cursor: Optional[str], known: int, answered: int) -> Changes:
        replica = self.chance.choice(self.replicas)
        if self.chance.random() < 0.08:
            replica.start += 1
        position = self.seen(self.chance.choice([known, self.chance.randint(known, answered)]))
        places = dict(place.split("-", 1) for place in (cursor or "").split(".") if place)
        start, _, before = places.pop(str(replica.number), "-1-0").partition("-")
        is_reset = start != str(replica.start)
        places = {str(replica.number): f"{replica.start}-{position}", **places}
        named = [] if is_reset else self.changes[int(before) : position]
        return Changes(
            ".".join(f"{number}-{rest}" for number, rest in places.items()),
            -((known - answered) // MS) * MS,  # In whole milliseconds, rounded up.
            is_reset,
            tuple(token(number).id for _, number in named),
        )


class Violation(AssertionError):
    pass


def simulate(seed: int, table_type: type) -> Dict[str, int]:
    """Runs one schedule, and returns what happened. Raises `Violation` if a token is found that must not be."""
    chance = random.Random(seed)
    table = table_type(capacity=8)
    service = Service(chance, [Replica(number) for number in range(chance.choice([1, 1, 2, 3]))])
    delay = chance.choice([5, 40, 100]) * MS
    count = 6
    ends_at = {number: (400 if number == 0 else 5_000) * MS for number in range(count)}
    happened = {"hits": 0, "renewed hits": 0, "resets": 0, "revocations": 0}
    known_at: Dict[int, int] = {}
    now = 3_600_000 * MS
    begun = now
    end = begun + 3_000 * MS
    pending: List[tuple] = []
    order = itertools.count()
    asking = False

    def at(when: int, run) -> None:
        assert when >= now, "time runs forward"
        heapq.heappush(pending, (when, next(order), run))

    def times(sent: int):
        """When the replica knew, when it answered, and when its answer arrived."""
        reached = sent + chance.randint(0, delay)
        answered = reached + chance.randint(0, delay)
        # Also from the replica's own leases.
        known = chance.choice([chance.randint(reached, answered), max(begun, answered - chance.randint(0, LEASE))])
        is_stalled = chance.random() < 0.1
        return known, answered, answered + chance.randint(0, delay) + is_stalled * chance.randint(0, 2 * LEASE)

    def read(number: int) -> None:
        sent = now
        known, answered, arrives = times(sent)

        def arrive() -> None:
            revoked = service.revoked_at(number)
            if revoked is None or revoked > known:
                age = -((known - answered) // MS) * MS
                try:
                    table.insert(bytes([number]), token(number), begun + ends_at[number] - sent, age, sent, now)
                    known_at[number] = sent - age
                except Malformed:
                    raise Violation("an honest age was refused") from None

        at(arrives, arrive)
        # The interesting revocations are those that a read does just not see.
        if chance.random() < 0.1:
            at(max(now, known) + chance.randint(0, delay), lambda: revoke(number))

    def ask() -> None:
        nonlocal asking
        if asking:
            return
        asking = True
        question = table.begin_question(now)
        known, answered, arrives = times(now)
        is_lost = chance.random() < 0.1

        def answer() -> None:
            changes = service.answer_changes(question.cursor, known, now)
            at(arrives, lambda: arrive(changes))

        def arrive(changes: Changes) -> None:
            nonlocal asking
            asking = False
            if not is_lost:
                happened["resets"] += changes.reset
                table.end_question(question, changes, now)

        at(answered, answer)

    def revoke(number: int) -> None:
        if service.revoked_at(number) is None:
            happened["revocations"] += 1
            service.changes.append((now, number))
            for _ in range(12):
                at(now + LEASE + chance.randint(0, LEASE), lambda: look(number))

    def look(number: int) -> None:
        if table.find(bytes([number]), now) is None:
            return
        happened["hits"] += 1
        happened["renewed hits"] += now - known_at[number] >= LEASE
        revoked = service.revoked_at(number)
        if revoked is not None and now >= revoked + LEASE:
            raise Violation(f"seed {seed}: found {(now - revoked) / MS} ms after its revocation")
        if now >= begun + ends_at[number]:
            raise Violation(f"seed {seed}: found after its end")

    for when in range(begun, end, 40 * MS):
        at(when + chance.randint(0, 40 * MS), ask)
    for _ in range(30):
        at(chance.randint(begun, end), lambda: read(chance.randrange(count)))
    for _ in range(chance.randint(0, 3)):
        at(chance.randint(begun, end), lambda: revoke(chance.randrange(count)))
    for _ in range(60):
        at(chance.randint(begun, end), lambda: look(chance.randrange(count)))
    while pending:
        now, _, run = heapq.heappop(pending)
        run()
    return happened


def with_mutation(*replacements: str) -> type:
    """The table of state.py after these replacements of its text: old, new, old, new…"""
    text = STATE
    for old, new in zip(replacements[::2], replacements[1::2]):
        assert text.count(old) == 1, f"state.py has {text.count(old)} times {old!r}"
        text = text.replace(old, new)
    module = types.ModuleType("mayfly_verifier.mutated_state")
    module.__package__ = "mayfly_verifier"
    exec(compile(text, "mutated_state.py", "exec"), module.__dict__)
    return module.LeaseTable


def test_no_token_is_found_a_lease_after_its_revocation_or_after_its_end() -> None:
    totals: Dict[str, int] = {}
    for seed in range(SCHEDULES):
        for name, number in simulate(seed, mayfly_verifier.state.LeaseTable).items():
            totals[name] = totals.get(name, 0) + number
    print(totals)
    # The schedules are of the kind that matters: leases are renewed, sequences begin anew, tokens are revoked.
    assert min(totals["renewed hits"], totals["resets"], totals["revocations"]) > SCHEDULES, totals


NAMED = "self._named_at[mark] <= known_at"
MUTATIONS = {
    "age of a read ignored": ["sent - age, sent + min", "sent, sent + min"],
    "age of changes ignored": ["question.sent - changes.age + LEASE", "question.sent + LEASE"],
    "sequence not checked": ["if self._begun_at is not None and known_at >= self._begun_at:", "if True:"],
    "sequence begins when its question is sent": ["self._begun_at = now", "self._begun_at = question.sent"],
    "reset ignored": ["if changes.reset:", "if self._begun_at is None:"],
    "names forgotten": [NAMED, "True"],
    "a name told during a read forgotten": [
        "                self._named_at[hash(token_id) % _MARKS] = now",
        "                gone = [key for key, leased in self._tokens.items() if leased.token.id == token_id]\n"
        "                [self._tokens.pop(key) for key in gone]",
    ],
    "a name told before a read forgotten": [
        "sent - age, sent + min(life, MAX_AGE))",
        "sent - age, sent + min(life, MAX_AGE))\n"
        "        if self._named_at[leased.mark] <= sent: self._named_at[leased.mark] = -1",
    ],
    "renewed beyond a lease": ["question.sent - changes.age + LEASE", "question.sent - changes.age + 2 * LEASE"],
    "read used beyond a lease": ["until = known_at + LEASE", "until = known_at + 2 * LEASE"],
    "arrival of a read taken for sending": ["sent - age, sent + min", "now - age, sent + min"],
    "arrival of changes taken for sending": ["question.sent - changes.age + LEASE", "now - changes.age + LEASE"],
    "end of the token ignored": ["sent + min(life, MAX_AGE))", "sent + MAX_AGE)"],
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_model_sees_each_safeguard_that_is_removed(name: str) -> None:
    mutated = with_mutation(*MUTATIONS[name])
    with pytest.raises(Violation):
        for seed in range(4 * SCHEDULES):
            simulate(seed, mutated)


def table() -> mayfly_verifier.state.LeaseTable:
    return mayfly_verifier.state.LeaseTable(capacity=3)


def test_ages_err_to_the_safe_side() -> None:
    leases, sent = table(), 1_000_000 * MS
    leases.insert(b"a", token(1), 60_000 * MS, 0, sent, sent + 5 * MS)
    assert leases.find(b"a", sent + LEASE - 1) and leases.find(b"a", sent + LEASE) is None
    # An age of 12.1 ms comes as 13 ms.
    leases.insert(b"a", token(1), 60_000 * MS, 13 * MS, sent, sent + 5 * MS)
    assert leases.find(b"a", sent + 237 * MS - 1) and leases.find(b"a", sent + 237 * MS) is None


@pytest.mark.parametrize("age", [257 * MS, 10**18 * MS])
def test_an_age_that_the_service_may_not_have_is_malformed(age: int) -> None:
    leases, sent = table(), 1_000_000 * MS
    with pytest.raises(Malformed):
        leases.insert(b"a", token(1), 60_000 * MS, age, sent, sent + 5 * MS)
    assert len(leases) == 0


def test_a_huge_age_of_changes_renews_nothing() -> None:
    leases, sent = table(), 1_000_000 * MS
    leases.end_question(leases.begin_question(sent), Changes("c", 0, True, ()), sent)
    leases.insert(b"a", token(1), 60_000 * MS, 0, sent, sent)
    leases.end_question(leases.begin_question(sent + 200 * MS), Changes("c", 10**18 * MS, False, ()), sent + 200 * MS)
    assert leases.find(b"a", sent + LEASE) is None
    leases.end_question(leases.begin_question(sent + 200 * MS), Changes("c", 0, False, ()), sent + 200 * MS)
    assert leases.find(b"a", sent + LEASE) and leases.find(b"a", sent + 450 * MS) is None


def test_a_clock_that_jumps_ends_leases() -> None:
    leases, sent = table(), 1_000_000 * MS
    leases.insert(b"a", token(1), 60_000 * MS, 0, sent, sent)
    assert leases.find(b"a", sent) and leases.find(b"a", sent + 3_600_000 * MS) is None


def test_memory_is_bounded_and_the_least_recently_used_token_goes_first() -> None:
    leases, now = table(), 1_000_000 * MS
    for number in range(3):
        leases.insert(bytes([number]), token(number), 60_000 * MS, 0, now, now)
    assert leases.find(bytes([0]), now)
    leases.insert(bytes([3]), token(3), 60_000 * MS, 0, now, now)
    found: Set[int] = {number for number in range(4) if leases.find(bytes([number]), now)}
    assert (len(leases), found) == (3, {0, 2, 3})
