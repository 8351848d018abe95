"""Prints what a verification costs: from memory, and by asking the service over HTTP, in the same run.

Needs MAYFLY_URL, MAYFLY_USER and MAYFLY_PASSWORD of an administrator.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import os
import statistics
import time
from typing import Callable, List

from mayfly_verifier import Verifier

ROUNDS = 15
URL, USER, PASSWORD = os.environ["MAYFLY_URL"], os.environ["MAYFLY_USER"], os.environ["MAYFLY_PASSWORD"]
LOGIN = {"Authorization": "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()}


def issue(connection: http.client.HTTPConnection) -> str:
    """Issues a token, and returns its JWT."""
    body = json.dumps({"jwt_token_description": "benchmark", "jwt_token_life": "1 hour"})
    connection.request("POST", "/api/v1alpha/token", body, {**LOGIN, "Content-Type": "application/json"})
    return str(json.load(connection.getresponse())["jwt_token"])


def measure(count: int, run: Callable[[int], None]) -> List[float]:
    """The microseconds of one of `count` calls, in each of the rounds."""
    times = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        run(count)
        times.append((time.perf_counter() - begun) * 1e6 / count)
    return times


def main() -> None:
    connection = http.client.HTTPConnection(URL.split("//")[1])
    jwt = issue(connection)

    def ask(count: int) -> None:
        for _ in range(count):
            connection.request("GET", "/api/v1alpha/verify", headers={"Authorization": f"Bearer {jwt}"})
            response = connection.getresponse()
            response.read()
            assert response.status == 200

    with Verifier(URL, username=USER, password=PASSWORD) as verifier:

        def verify(count: int) -> None:
            for _ in range(count):
                verifier.verify(jwt)

        def verify_async(count: int) -> None:
            async def run() -> None:
                for _ in range(count):
                    await verifier.verify_async(jwt)

            asyncio.run(run())

        verify(2_000)
        asked = verifier.stats().questions
        rows = [
            ("`verify`, from memory", measure(5_000, verify)),
            ("`verify_async`, from memory", measure(5_000, verify_async)),
            ("asking over HTTP (`http.client`, one connection)", measure(100, ask)),
        ]
        questions = verifier.stats().questions - asked
    print("\n| Python: one verification | median, µs | least, µs |\n|---|---|---|")
    for name, times in rows:
        print(f"| {name} | {statistics.median(times):.1f} | {min(times):.1f} |")
    print(f"\nQuestions to the service among {ROUNDS * 10_000:,} verifications from memory: {questions}")


if __name__ == "__main__":
    main()
