"""One FastAPI service in three variants."""

from __future__ import annotations

import http.client
import os

from fastapi import FastAPI, HTTPException, Request

from mayfly_verifier import Verifier
from mayfly_verifier.asgi import MayflyMiddleware

URL = os.environ["MAYFLY_URL"]


def service() -> FastAPI:
    app = FastAPI()

    @app.get("/")
    async def hello() -> str:
        return "hello"

    return app


open = service()  # noqa: A001

middleware = service()
middleware.add_middleware(
    MayflyMiddleware,
    verifier=Verifier(URL, username=os.environ["MAYFLY_USER"], password=os.environ["MAYFLY_PASSWORD"]),
)

asking = FastAPI()
connection = http.client.HTTPConnection(URL.split("//")[1])


@asking.get("/")
async def hello(request: Request) -> str:
    # Blocks the loop, which the CPU time does not show: the cheapest way to ask that Python has.
    connection.request("GET", "/api/v1alpha/verify", headers={"Authorization": request.headers["authorization"]})
    response = connection.getresponse()
    response.read()
    if response.status != 200:
        raise HTTPException(response.status)
    return "hello"
