"""Verifies lines, for tests in other languages: `lines.py threads|asyncio USER PASSWORD`.

Reads lines of a number and a JWT, and answers each with ``= NUMBER OUTCOME``, in any order: `leased` (accepted from
memory), `asked` (accepted by an answer of the service), `rejected`, or `unavailable` and why.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Optional

from mayfly_verifier import Rejected, Unavailable, Verifier
from mayfly_verifier.clock import now

THREADS = 32

_lock = threading.Lock()


def answer(number: str, outcome: str) -> None:
    with _lock:
        sys.stdout.write(f"= {number} {' '.join(outcome.split())}\n")
        sys.stdout.flush()


def is_leased(verifier: Verifier, jwt: str) -> bool:
    return verifier._engine().leases.find(hashlib.sha256(jwt.encode()).digest(), now()) is not None


def outcome_of(was_leased: bool, error: Optional[Exception] = None) -> str:
    if error is None:
        return "leased" if was_leased else "asked"
    return "rejected" if isinstance(error, Rejected) else f"unavailable {error}"


def with_threads(verifier: Verifier) -> None:
    def verify(line: str) -> None:
        number, jwt = line.split()
        was_leased = is_leased(verifier, jwt)
        try:
            verifier.verify(jwt)
        except (Rejected, Unavailable) as error:
            answer(number, outcome_of(was_leased, error))
        else:
            answer(number, outcome_of(was_leased))

    with ThreadPoolExecutor(THREADS) as executor:
        for line in sys.stdin:
            executor.submit(verify, line)


async def with_asyncio(verifier: Verifier) -> None:
    async def verify(line: str) -> None:
        number, jwt = line.split()
        was_leased = is_leased(verifier, jwt)
        try:
            await verifier.verify_async(jwt)
        except (Rejected, Unavailable) as error:
            answer(number, outcome_of(was_leased, error))
        else:
            answer(number, outcome_of(was_leased))

    loop = asyncio.get_running_loop()
    tasks = set()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        task = asyncio.create_task(verify(line))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


def main() -> None:
    _, style, username, password = sys.argv
    with Verifier(os.environ["MAYFLY_TEST_VERIFIER_URL"], username=username, password=password) as verifier:
        if style == "threads":
            with_threads(verifier)
        else:
            asyncio.run(with_asyncio(verifier))


if __name__ == "__main__":
    main()
