"""uvicorn --app-dir examples fastapi_app:app"""

import os

from fastapi import Depends, FastAPI

from mayfly_verifier import Token, Verifier
from mayfly_verifier.fastapi import RequireToken

verifier = Verifier(
    os.environ["MAYFLY_URL"], username=os.environ["MAYFLY_USER"], password=os.environ["MAYFLY_PASSWORD"]
)
any_token = RequireToken(verifier)
admin_token = RequireToken(verifier, scope="admin")

app = FastAPI()


@app.get("/")
async def hello(token: Token = Depends(any_token)) -> str:
    return f"hello, {token.username}"


@app.get("/admin")
async def admin(token: Token = Depends(admin_token)) -> str:
    return f"hello, administrator {token.username}"
