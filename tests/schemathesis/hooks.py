"""Adds to the OpenAPI document how to log in, valid durations, and existing tokens and users."""

import base64
import ipaddress
import os
import random
import uuid

import requests
import schemathesis
from hypothesis import strategies

URL = os.environ["MAYFLY_URL"]
LOGIN = (os.environ["MAYFLY_NAME"], os.environ["MAYFLY_PASSWORD"])

# Operations that are not sent about the user of the tests, who could not log in afterwards.
CHANGES_OF_USERS = ("changeUser", "removeUser", "changePassword", "revokeUserTokens")

# At least an hour, so that tokens live until they are used, and at most a year, the maximum of the service.
schemathesis.openapi.format(
    "human-duration",
    strategies.builds("{} {}".format, strategies.integers(1, 365), strategies.sampled_from(["h", "hours", "d", "days"])),
)


def post(path, body):
    answer = requests.post(f"{URL}/api/v1alpha/{path}", json=body, auth=LOGIN, timeout=30)
    answer.raise_for_status()
    return answer.json()


def is_network(text):
    """Whether the service takes a text that has the pattern of the document."""
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        return False
    return network.prefixlen > 0 and getattr(network.network_address, "ipv4_mapped", None) is None


def satisfy_rules(token):
    """Mends what the document cannot describe in a valid request for a token."""
    networks = {str(ipaddress.ip_network(text)) for text in token.get("jwt_token_networks", []) if is_network(text)}
    if "jwt_token_networks" in token:
        token["jwt_token_networks"] = sorted(networks) or ["10.0.0.0/8"]
    if len(" ".join(token.get("jwt_token_scopes", []))) > 1024:
        del token["jwt_token_scopes"]


def issue():
    """Issues a token for one request."""
    return post("token", {"jwt_token_description": "for one request", "jwt_token_life": "1 min"})


@schemathesis.auth(refresh_interval=None)
class Credentials:
    """The user's password; for operations that take only a token, a new one each time, as the request may revoke it."""

    def get(self, case, context):
        schemes = [name for requirement in context.operation.definition.raw.get("security", []) for name in requirement]
        if schemes == ["Bearer"]:
            return "Bearer " + issue()["jwt_token"]
        return "Basic " + base64.b64encode(":".join(LOGIN).encode()).decode() if schemes else None

    def set(self, case, data, context):
        if data is not None:
            case.headers["Authorization"] = data


@schemathesis.hook
def before_call(context, case, kwargs):
    """Lets valid requests name a live token, in place of generated text, and networks.

    Each request comes from another address, so that the tool's many wrong passwords delay no other request.
    """
    case.headers["X-Forwarded-For"] = str(ipaddress.IPv4Address(random.getrandbits(32)))
    operation = case.operation.definition.raw.get("operationId")
    if operation in CHANGES_OF_USERS and case.path_parameters.get("name") == LOGIN[0]:
        case.path_parameters["name"] = "somebody"
    if case.meta is None or case.meta.generation.mode.is_negative:
        return
    if "Idempotency-Key" in case.headers:
        # A key belongs to one request.
        case.headers["Idempotency-Key"] = str(uuid.uuid4())
    if operation in ("rotateToken", "revokeUserToken"):
        case.path_parameters["id"] = issue()["jwt_token_id"]
    if operation == "revokeUserToken":
        case.path_parameters["name"] = LOGIN[0]
    if operation == "issueToken":
        satisfy_rules(case.body)
    if operation in ("introspectToken", "revokePresentedToken") and len(case.body["token"]) % 2 == 0:
        case.body["token"] = issue()["jwt_token"]
