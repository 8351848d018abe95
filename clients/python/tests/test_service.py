"""The verifier with a real service: strict where it revokes, stalls, restarts and rejects."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from typing import Any, Callable, List

import pytest
from conftest import PASSWORD, Service, eventually

from mayfly_verifier import Rejected, Token, Unavailable, Verifier
from mayfly_verifier.state import LEASE


def is_leased(verifier: Verifier, jwt: str) -> bool:
    """Whether a verification asks no question."""
    asked = verifier.stats().questions
    verifier.verify(jwt)
    return verifier.stats().questions == asked


def wait_until_renewed(verifier: Verifier, jwt: str) -> None:
    """Waits until the token is found a second after it was read."""

    def is_renewed() -> bool:
        asked = verifier.stats().questions
        verifier.verify(jwt)
        until = time.monotonic() + 1
        while time.monotonic() < until:
            verifier.verify(jwt)
            time.sleep(0.01)
        return verifier.stats().questions == asked

    eventually("leases are renewed", is_renewed)


def test_a_token_that_is_in_use_costs_no_question(service: Service) -> None:
    token_id, jwt = service.issue()
    with service.verifier() as verifier:
        token = verifier.verify(jwt)
        assert (token.id, token.username) == (token_id, "admin")
        wait_until_renewed(verifier, jwt)


def test_no_revoked_token_is_accepted_after_the_answer(service: Service) -> None:
    """Threads verify all the time, and what they accept is compared with when the revocation was answered."""
    count, late, rejected = 40, [], [0]
    tokens = [service.issue() for _ in range(count)]
    answered_at = [float("inf")] * count
    accepted = [0] * count
    stop = threading.Event()
    with service.verifier(timeout=30) as verifier:

        def verify(chance: random.Random) -> None:
            while not stop.is_set():
                number = chance.randrange(count)
                begun = time.monotonic()
                try:
                    verifier.verify(tokens[number][1])
                except Rejected:
                    rejected[0] += 1
                    time.sleep(0.005)
                    continue
                accepted[number] += 1
                if begun > answered_at[number]:
                    late.append(number)
                time.sleep(0.0005)

        def revoke(numbers: List[int]) -> None:
            for number in numbers:
                service.revoke(tokens[number][0])
                answered_at[number] = time.monotonic()
                for _ in range(5):
                    with pytest.raises(Rejected):
                        verifier.verify(tokens[number][1])
                    rejected[0] += 1

        def run(target: Callable[..., None], arguments: List[Any]) -> List[threading.Thread]:
            threads = [threading.Thread(target=target, args=(argument,)) for argument in arguments]
            for thread in threads:
                thread.start()
            return threads

        verifying = run(verify, [random.Random(seed) for seed in range(3)])
        for thread in run(revoke, [list(range(first, count, 4)) for first in range(4)]):
            thread.join()
        stop.set()
        for thread in verifying:
            thread.join()
        stats = verifier.stats()
    assert late == []
    assert answered_at.count(float("inf")) == 0, "each was revoked, and then rejected five times"
    assert stats.renewals > 5 and sum(accepted) > 3 * (stats.questions - rejected[0]), stats


def test_asyncio_shares_one_question_and_outlives_cancelled_callers(service: Service) -> None:
    _, jwt = service.issue()

    async def verify_all(verifier: Verifier) -> None:
        callers = [asyncio.create_task(verifier.verify_async(jwt)) for _ in range(200)]
        await asyncio.sleep(0)
        for caller in callers[:100]:
            caller.cancel()
        results = await asyncio.gather(*callers, return_exceptions=True)
        assert all(isinstance(result, Token) for result in results[100:]), results[100:]

    with service.verifier(timeout=30) as verifier:
        asyncio.run(verify_all(verifier))
        # The callers came while the question was under way: those whom its answer cannot serve share a second one.
        assert verifier.stats().questions <= 2


def test_a_service_that_stalls_is_unavailable_and_nothing_else(start: Callable[..., Any]) -> None:
    service = start(Service)
    (token_id, jwt), (_, other) = service.issue(), service.issue()
    with service.verifier(timeout=0.5) as verifier:
        verifier.verify(jwt)
        wait_until_renewed(verifier, jwt)
        service.signal(signal.SIGSTOP)
        stopped = time.monotonic()
        accepted = 0
        while time.monotonic() < stopped + LEASE / 1e9:
            try:
                verifier.verify(jwt)
                accepted += 1
            except Unavailable:
                break
        # Its last renewal was known to be true before it stopped.
        for unsure in (jwt, other, jwt):
            with pytest.raises(Unavailable):
                verifier.verify(unsure)
        service.signal(signal.SIGCONT)
        assert eventually("it is available again", lambda: is_available(verifier, jwt))
        wait_until_renewed(verifier, jwt)
        service.revoke(token_id)
        with pytest.raises(Rejected):
            verifier.verify(jwt)


def is_available(verifier: Verifier, jwt: str) -> bool:
    try:
        verifier.verify(jwt)
    except Unavailable:
        return False
    return True


def test_a_service_that_restarts_is_asked_again(start: Callable[..., Any]) -> None:
    service = start(Service)
    _, jwt = service.issue()
    with service.verifier() as verifier:
        wait_until_renewed(verifier, jwt)
        service.end()
        ended = time.monotonic()
        eventually("the lease lapses", lambda: not is_available(verifier, jwt))
        assert time.monotonic() < ended + 5
        # Another start has other tokens and keys.
        again = start(Service, service.port)
        _, other = again.issue()
        eventually("it is available again", lambda: is_available(verifier, other))
        with pytest.raises(Rejected):
            verifier.verify(jwt)
        wait_until_renewed(verifier, other)


def test_a_token_expires(service: Service) -> None:
    _, jwt = service.issue(life="2 seconds")
    with service.verifier() as verifier:
        expires_at = verifier.verify(jwt).expires_at

        def is_rejected() -> bool:
            begun = time.time()
            try:
                verifier.verify(jwt)
            except Rejected:
                return True
            assert begun < expires_at + 1
            return False

        eventually("it expires", is_rejected)


def test_rejected_credentials_are_unavailable_and_nothing_else(service: Service) -> None:
    _, jwt = service.issue()
    service.call("POST", "/user", {"username": "guest", "role": "user", "password": "secret"})
    for user, password in [("admin", "wrong"), ("guest", "secret")]:
        with Verifier(service.url, username=user, password=password, timeout=1) as verifier:
            for _ in range(2):
                with pytest.raises(Unavailable):
                    verifier.verify(jwt)
            verifier.set_credentials(username="admin", password=PASSWORD)
            eventually("the new credentials count", lambda: is_available(verifier, jwt))


def test_a_token_of_an_introspector_is_a_credential(service: Service) -> None:
    _, jwt = service.issue()
    service.call("POST", "/user", {"username": "watcher", "role": "introspector", "password": "secret"})
    body = {"jwt_token_description": "watcher", "jwt_token_life": "1 hour"}
    token = service.call("POST", "/token", body, "watcher", "secret")["jwt_token"]
    with Verifier(service.url, token=token) as verifier:
        wait_until_renewed(verifier, jwt)


def test_demands_are_checked(service: Service) -> None:
    fields = {"jwt_token_scopes": ["read", "repo:status"], "jwt_token_audiences": ["https://shop.example"]}
    _, jwt = service.issue(**fields, jwt_token_networks=["192.0.2.0/24", "2001:db8::7"])
    with service.verifier() as verifier:
        token = verifier.verify(jwt, scope="read", audience="https://shop.example", client="2001:db8::7")
        assert (token.scopes, token.audiences) == (("read", "repo:status"), ("https://shop.example",))
        for demands, reason in [
            ({"client": "192.0.3.7"}, "network"),
            ({"client": "192.0.2.7", "scope": ["read", "write"]}, "scope"),
            ({"client": "192.0.2.7", "audience": "https://other.example"}, "audience"),
        ]:
            with pytest.raises(Rejected) as rejected:
                verifier.verify(jwt, **demands)
            assert rejected.value.reason == reason


def test_a_long_token_is_verified(service: Service) -> None:
    audiences = [f"{number}{'x' * 255}" for number in range(8)]
    _, jwt = service.issue(jwt_token_audiences=audiences, jwt_token_scopes=["y" * 1000])
    assert len(jwt) > 4096
    with service.verifier() as verifier:
        assert verifier.verify(jwt, audience=audiences[7]).audiences == tuple(audiences)


@pytest.mark.parametrize(
    "jwt", ["", "a.b", "a.b.c.d", "a.b.c ", "a.b.c&x=y", "a.b.\u00e9", "a.b." + "x" * 9000, "..", "\udc80"]
)
def test_only_what_may_be_a_jwt_is_asked_about(service: Service, jwt: str) -> None:
    with service.verifier() as verifier:
        with pytest.raises(Rejected):
            verifier.verify(jwt)
        assert verifier.stats().questions == 0


def test_a_child_process_begins_anew(service: Service) -> None:
    (token_id, jwt), (_, other) = service.issue(), service.issue()
    with service.verifier() as verifier:
        wait_until_renewed(verifier, jwt)
        (to_parent, from_child), (to_child, from_parent) = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            # Exits without the finalizers of pytest, whatever happens.
            try:
                assert verifier.stats().tokens == 0, "leases are not inherited"
                wait_until_renewed(verifier, jwt)
                os.write(from_child, b"1")
                os.read(to_child, 1)
                with pytest.raises(Rejected):
                    verifier.verify(jwt)
                verifier.verify(other)
                os.write(from_child, b"2")
            finally:
                os._exit(0)
        # Else a child that fails would leave the parent waiting.
        os.close(from_child)
        assert os.read(to_parent, 1) == b"1"
        service.revoke(token_id)
        with pytest.raises(Rejected):
            verifier.verify(jwt)
        os.write(from_parent, b"1")
        assert os.read(to_parent, 1) == b"2"
        os.waitpid(child, 0)
        wait_until_renewed(verifier, other)


def test_a_closed_verifier_is_unavailable_and_leaves_no_thread(service: Service) -> None:
    _, jwt = service.issue()
    verifier = service.verifier()
    verifier.verify(jwt)
    verifier.close()
    eventually("its threads end", lambda: not any("mayfly" in thread.name for thread in threading.enumerate()))
    with pytest.raises(Unavailable):
        verifier.verify("a.b.c")
    verifier = service.verifier()
    verifier.verify(jwt)
    del verifier
    eventually("its threads end", lambda: not any("mayfly" in thread.name for thread in threading.enumerate()))
