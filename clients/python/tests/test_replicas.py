"""Three replicas on one Redis, behind a proxy that spreads connections, delays, stalls and cuts them."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, List

from conftest import BINARY, PASSWORD, Process, Service, eventually

from mayfly_verifier import Rejected, Unavailable, Verifier

REVOCATIONS = int(os.environ.get("MAYFLY_REVOCATIONS", "60"))
"""How many tokens are revoked; each takes 300 ms, and eight are under way at once."""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Redis(Process):
    """A Redis without persistence."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        command = [
            "redis-server",
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
            str(directory),
        ]
        super().__init__(command, dict(os.environ), stdout=subprocess.DEVNULL)
        eventually("Redis answers", self._answers)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16) == b"+PONG\r\n"
        except OSError:
            return False


class FaultyProxy:
    """Passes each connection on to a replica that it draws, and troubles some of them."""

    def __init__(self, ports: List[int]) -> None:
        self._ports = ports
        self._chance = random.Random(7)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                replica = socket.create_connection(("127.0.0.1", self._chance.choice(self._ports)))
            except OSError:
                if self._listener.fileno() == -1:
                    return
                continue
            for source, target in ((client, replica), (replica, client)):
                threading.Thread(target=self._pass_on, args=(source, target), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                fault = self._chance.random()
                if fault < 0.01:
                    break
                if fault < 0.03:
                    time.sleep(self._chance.uniform(0, 0.6))
                elif fault < 0.3:
                    time.sleep(self._chance.uniform(0, 0.03))
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def test_no_revoked_token_is_accepted_whatever_the_network_does(start: Callable[..., Any], tmp_path: Path) -> None:
    redis = start(Redis, tmp_path)
    keys = tmp_path / "keys.json"
    subprocess.run([BINARY, "key", "generate", "--out", str(keys)], check=True, stdout=subprocess.DEVNULL)
    settings = {"MAYFLY_REDIS_URL": f"redis://127.0.0.1:{redis.port}", "MAYFLY_JWT_KEYS_FILE": str(keys)}
    settings["MAYFLY_TOKEN_QUOTA"] = str(2 * REVOCATIONS + 1000)
    replicas: List[Service] = [start(Service, 0, settings) for _ in range(3)]
    proxy = FaultyProxy([replica.port for replica in replicas])
    tokens = [replicas[0].issue() for _ in range(REVOCATIONS)]
    answered_at = [float("inf")] * REVOCATIONS
    outcomes: Dict[str, int] = {"accepted": 0, "rejected": 0, "unavailable": 0}
    late: List[int] = []
    done = threading.Event()
    lock = threading.Lock()

    def verify(chance: random.Random, verifier: Verifier) -> None:
        while not done.is_set():
            # Most are tokens that are in use: those that are revoked next, and a few that were.
            revoked = sum(when < float("inf") for when in answered_at)
            number = min(REVOCATIONS - 1, max(0, revoked + chance.randint(-2, 24)))
            begun = time.monotonic()
            try:
                verifier.verify(tokens[number][1])
                outcome = "accepted"
                if begun > answered_at[number]:
                    late.append(number)
            except Rejected:
                outcome = "rejected"
            except Unavailable:
                outcome = "unavailable"
            with lock:
                outcomes[outcome] += 1
            time.sleep(0.001)

    def revoke(numbers: List[int], chance: random.Random) -> None:
        for number in numbers:
            chance.choice(replicas).revoke(tokens[number][0])
            answered_at[number] = time.monotonic()

    def trouble(chance: random.Random) -> None:
        """Stops a replica for a moment, again and again."""
        while not done.wait(0.5):
            replica = chance.choice(replicas)
            replica.signal(signal.SIGSTOP)
            done.wait(chance.uniform(0, 0.4))
            replica.signal(signal.SIGCONT)

    with Verifier(proxy.url, username="admin", password=PASSWORD, timeout=5) as verifier:
        others = [threading.Thread(target=verify, args=(random.Random(seed), verifier)) for seed in range(3)]
        others.append(threading.Thread(target=trouble, args=(random.Random(8),)))
        revoking = [
            threading.Thread(target=revoke, args=(list(range(first, REVOCATIONS, 8)), random.Random(first)))
            for first in range(8)
        ]
        for thread in others + revoking:
            thread.start()
        for thread in revoking:
            thread.join()
        done.set()
        for thread in others:
            thread.join()
        stats = verifier.stats()
    proxy.close()
    print(f"{REVOCATIONS} revocations, {len(late)} accepted after the answer; {outcomes}; {stats}")
    assert late == []
    assert all(when < float("inf") for when in answered_at), "each was revoked"
    assert outcomes["accepted"] > outcomes["unavailable"] and stats.renewals > 5, (outcomes, stats)
