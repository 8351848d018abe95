"""Uses the client that openapi-python-client generated as a service would."""

import os
from base64 import b64encode

from mayfly_client import AuthenticatedClient
from mayfly_client.api.services import introspect_token, verify
from mayfly_client.api.tokens import inspect_token, issue_token, list_tokens, revoke_token
from mayfly_client.api.users import add_user
from mayfly_client.models import Role, TokenForm, TokenRequest, UserRequest

URL = os.environ["MAYFLY_URL"]
LOGIN = f"{os.environ['MAYFLY_NAME']}:{os.environ['MAYFLY_PASSWORD']}"

client = AuthenticatedClient(base_url=URL, token=b64encode(LOGIN.encode()).decode(), prefix="Basic")
issued = issue_token.sync(client=client, body=TokenRequest(jwt_token_description="python", jwt_token_life="1 hour"))
bearer = AuthenticatedClient(base_url=URL, token=issued.jwt_token)
assert verify.sync_detailed(client=bearer).status_code == 200
assert issued.jwt_token_id in list_tokens.sync(client=client).jwt_tokens.additional_properties
assert inspect_token.sync(client=client, id=issued.jwt_token_id).jwt_token_description == "python"
assert introspect_token.sync(client=client, body=TokenForm(token=issued.jwt_token)).active
assert revoke_token.sync(client=client, id=issued.jwt_token_id).message == "Token deleted"
assert not introspect_token.sync(client=client, body=TokenForm(token=issued.jwt_token)).active
assert verify.sync_detailed(client=bearer).status_code == 401
added = add_user.sync(client=client, body=UserRequest(username="python", role=Role.INTROSPECTOR, password="secret"))
assert added.role is Role.INTROSPECTOR
