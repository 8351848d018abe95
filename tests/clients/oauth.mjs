// openid-client and oauth4webapi find the metadata, log in with a name and a password, introspect a token and revoke it.
import assert from "node:assert";
import * as oauth from "oauth4webapi";
import * as openid from "openid-client";

const { MAYFLY_URL, MAYFLY_NAME, MAYFLY_PASSWORD } = process.env;
const [name, password] = ["order-service", "a-._%+:b"];
const call = async (path, body) => {
  const login = Buffer.from(`${MAYFLY_NAME}:${MAYFLY_PASSWORD}`).toString("base64");
  const headers = { authorization: `Basic ${login}`, "content-type": "application/json" };
  const answer = await fetch(MAYFLY_URL + path, { method: "POST", headers, body: JSON.stringify(body) });
  assert.equal(answer.status, 201);
  return answer.json();
};
const issue = async () => {
  const body = { jwt_token_description: "oauth", jwt_token_life: "1 hour" };
  return (await call("/api/v1alpha/token", body)).jwt_token;
};
await call("/api/v1alpha/user", { username: name, role: "introspector", password });

const issuer = new URL(MAYFLY_URL);
const insecure = { [oauth.allowInsecureRequests]: true };
{
  const found = await oauth.discoveryRequest(issuer, { algorithm: "oauth2", ...insecure });
  const server = await oauth.processDiscoveryResponse(issuer, found);
  const [client, authentication] = [{ client_id: name }, oauth.ClientSecretBasic(password)];
  const token = await issue();
  const introspect = async () => {
    const answer = await oauth.introspectionRequest(server, client, authentication, token, insecure);
    return (await oauth.processIntrospectionResponse(server, client, answer)).active;
  };
  assert.equal(await introspect(), true);
  const answer = await oauth.revocationRequest(server, client, authentication, token, insecure);
  await oauth.processRevocationResponse(answer);
  assert.equal(await introspect(), false);
}
{
  const config = await openid.discovery(issuer, name, password, openid.ClientSecretBasic(password), {
    algorithm: "oauth2",
    execute: [openid.allowInsecureRequests],
  });
  const token = await issue();
  assert.equal((await openid.tokenIntrospection(config, token)).active, true);
  await openid.tokenRevocation(config, token);
  assert.equal((await openid.tokenIntrospection(config, token)).active, false);
  for (const call of [openid.tokenIntrospection, openid.tokenRevocation]) {
    const failed = await call(config, "Bearer x").then(() => assert.fail("it is no token"), (failed) => failed);
    assert(failed instanceof openid.ResponseBodyError, failed);
    assert.equal(failed.error, "invalid_request");
    assert.match(failed.error_description, /^token: send the token alone/);
  }
}
