"""The Flask example, whose verifier was used before gunicorn forks: its thread and connection stay in the parent."""

from flask_app import app, verifier

from mayfly_verifier import Rejected

__all__ = ["app"]

try:
    verifier.verify("a.b.c")
except Rejected:
    pass
