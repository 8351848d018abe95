"""gunicorn --chdir examples flask_app:app"""

import os

from flask import Flask, request

from mayfly_verifier import Verifier
from mayfly_verifier.wsgi import MayflyMiddleware

verifier = Verifier(
    os.environ["MAYFLY_URL"], username=os.environ["MAYFLY_USER"], password=os.environ["MAYFLY_PASSWORD"]
)
app = Flask(__name__)
app.wsgi_app = MayflyMiddleware(app.wsgi_app, verifier)  # type: ignore[method-assign]


@app.get("/")
def hello() -> str:
    return f"hello, {request.environ['mayfly.token'].username}"
