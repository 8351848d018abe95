"""Prints the CPU time per request of a FastAPI service: open, with the middleware, and with asking for each request.

Needs MAYFLY_URL, MAYFLY_USER and MAYFLY_PASSWORD of an administrator, and uvicorn.
"""

from __future__ import annotations

import http.client
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, List

from hit import URL, issue

HERE = Path(__file__).parent
ROUNDS = 5
REQUESTS = 500
VARIANTS = {"open": "without verification", "middleware": "with the middleware", "asking": "asking for each request"}


class Server:
    """The service under uvicorn, in a process of its own."""

    def __init__(self, variant: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "--app-dir", str(HERE), "--port", str(self.port)]
            + ["--log-level", "error", f"fastapi_variants:{variant}"],
        )
        deadline = time.monotonic() + 60
        while True:
            try:
                self.connection = http.client.HTTPConnection("127.0.0.1", self.port)
                self.connection.connect()
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def cpu_seconds(self) -> float:
        """The CPU time of all threads so far."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")

    def request(self, jwt: str, count: int) -> None:
        for _ in range(count):
            self.connection.request("GET", "/", headers={"Authorization": f"Bearer {jwt}"})
            response = self.connection.getresponse()
            response.read()
            assert response.status == 200, response.status


def main() -> None:
    jwt = issue(http.client.HTTPConnection(URL.split("//")[1]))
    servers = {variant: Server(variant) for variant in VARIANTS}
    times: Dict[str, List[float]] = {variant: [] for variant in VARIANTS}
    try:
        for server in servers.values():
            server.request(jwt, 50)
        for _ in range(ROUNDS):
            for variant, server in servers.items():
                begun = server.cpu_seconds()
                server.request(jwt, REQUESTS)
                times[variant].append((server.cpu_seconds() - begun) * 1e6 / REQUESTS)
    finally:
        for server in servers.values():
            server.process.terminate()
            server.process.wait()
    print("\n| FastAPI under uvicorn | CPU per request, µs (median) |\n|---|---|")
    for variant, name in VARIANTS.items():
        print(f"| {name} | {statistics.median(times[variant]):.0f} |")


if __name__ == "__main__":
    main()
