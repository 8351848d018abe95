"""authlib finds the metadata, takes them, logs in with a name and a password, introspects a token and revokes it."""

import os
import sys

os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"  # the service speaks HTTP here
import requests
from authlib.integrations.requests_client import OAuth2Session
from authlib.oauth2.rfc8414 import AuthorizationServerMetadata, get_well_known_url

url, issuer, name, password, token = sys.argv[1:]
del os.environ["AUTHLIB_INSECURE_TRANSPORT"]
answer = requests.get(url + get_well_known_url(issuer), timeout=30)
metadata = AuthorizationServerMetadata(answer.json())
assert metadata["issuer"] == issuer, metadata
metadata.validate()

os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"
session = OAuth2Session(name, password, token_endpoint_auth_method="client_secret_basic")
answer = session.introspect_token(f"{url}/oauth2/introspect", token=token)
assert answer.status_code == 200 and answer.json()["active"], answer.text
answer = session.revoke_token(f"{url}/oauth2/revoke", token=token)
assert answer.status_code == 200, answer.text
