// Uses openapi-fetch and the types that openapi-typescript generated as a service would.
import assert from "node:assert";
import createClient from "openapi-fetch";
import type { paths } from "./mayfly.js";

const { MAYFLY_URL, MAYFLY_NAME, MAYFLY_PASSWORD } = process.env;
const login = Buffer.from(`${MAYFLY_NAME}:${MAYFLY_PASSWORD}`).toString("base64");
const client = createClient<paths>({ baseUrl: MAYFLY_URL, headers: { authorization: `Basic ${login}` } });

const body = { jwt_token_description: "typescript", jwt_token_life: "1 hour" };
const { data: issued } = await client.POST("/api/v1alpha/token", { body });
assert(issued);
const id = issued.jwt_token_id;
const { data: list } = await client.GET("/api/v1alpha/token");
assert.equal(list?.jwt_tokens[id].jwt_token_description, "typescript");
const { data: details } = await client.GET("/api/v1alpha/token/{id}", { params: { path: { id } } });
assert.equal(details?.expiry_status, "Valid");
const introspect = async () => {
  const { data } = await client.POST("/oauth2/introspect", {
    body: { token: issued.jwt_token },
    headers: { "content-type": "application/x-www-form-urlencoded" },
  });
  return data?.active;
};
assert.equal(await introspect(), true);
const { data: revoked } = await client.DELETE("/api/v1alpha/token/{id}", { params: { path: { id } } });
assert.equal(revoked?.message, "Token deleted");
assert.equal(await introspect(), false);
const { data: added } = await client.POST("/api/v1alpha/user", {
  body: { username: "typescript", role: "introspector", password: "secret" },
});
assert.equal(added?.role, "introspector");
