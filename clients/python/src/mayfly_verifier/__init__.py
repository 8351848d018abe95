"""Verifies the API tokens of Mayfly in the memory of your own service, with strict revocation.

A token that is in use costs a lookup instead of a request. Once Mayfly has answered that a token is revoked,
`Verifier.verify` accepts it no more.
"""

from .engine import Stats
from .errors import Rejected, Unavailable, VerifyError
from .token import Token
from .verifier import Verifier

__all__ = ["Rejected", "Stats", "Token", "Unavailable", "Verifier", "VerifyError"]
__version__ = "0.1.0"
