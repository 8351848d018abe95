// oidc-provider, a certified OpenID provider, as a trusted issuer; openid-client as the client of both. A person logs in
// by the authorization code flow and exchanges the ID token, a machine by client credentials with a JWT access token, and
// the provider rotates its keys.
import assert from "node:assert";
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { exportJWK, generateKeyPair } from "jose";
import * as openid from "openid-client";
import Provider from "oidc-provider";

const audience = "https://mayfly.example";
const callback = "http://127.0.0.1:1/callback";
const insecure = { execute: [openid.allowInsecureRequests] };
const key = async (kid, alg) => {
  const { privateKey } = await generateKeyPair(alg, { extractable: true });
  return { ...(await exportJWK(privateKey)), kid, alg, use: "sig" };
};

// The provider answers at one port; another one takes its place when its keys are rotated.
let provider;
const server = createServer((request, response) => provider.callback()(request, response));
await new Promise((done) => server.listen(0, "127.0.0.1", done));
const issuer = `http://127.0.0.1:${server.address().port}`;
const provide = (...keys) => {
  provider = new Provider(issuer, {
    jwks: { keys },
    clients: [
      { client_id: "mayfly-cli", token_endpoint_auth_method: "none", redirect_uris: [callback], application_type: "native" },
      { client_id: "batch", client_secret: "secret", grant_types: ["client_credentials"], redirect_uris: [], response_types: [] },
    ],
    features: {
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: () => ({
          scope: "",
          audience,
          accessTokenFormat: "jwt",
          jwt: { sign: { alg: keys[0].alg } },
        }),
      },
    },
  });
};
console.warn = () => {}; // The provider's own login pages are for development only, and it says so.
provide(await key("first", "RS256"));

const directory = mkdtempSync(join(tmpdir(), "mayfly-"));
writeFileSync(
  join(directory, "issuers.toml"),
  `[[issuer]]\nissuer = "${issuer}"\naudience = "mayfly-cli"\nuser = "person-{sub}"\nmax_life = "1 day"\n` +
    `[[issuer]]\nissuer = "${issuer}"\naudience = "${audience}"\nuser = "machine-{client_id}"\nmax_life = "1 hour"\n`,
);
const mayfly = spawn(process.env.MAYFLY, {
  env: { MAYFLY_LISTEN: "127.0.0.1:0", MAYFLY_METRICS_LISTEN: "off", MAYFLY_ISSUERS_FILE: join(directory, "issuers.toml") },
  stdio: ["ignore", "pipe", "ignore"],
});
try {
  const lines = createInterface({ input: mayfly.stdout });
  const url = await new Promise((found) =>
    lines.on("line", (line) => line.includes("listens on") && found(line.match(/http:\/\/\S+/)[0])),
  );
  const exchange = async (subject_token, type, more = {}) => {
    const config = await openid.discovery(new URL(url), "any", undefined, openid.None(), { algorithm: "oauth2", ...insecure });
    return openid.genericGrantRequest(config, "urn:ietf:params:oauth:grant-type:token-exchange", {
      subject_token,
      subject_token_type: `urn:ietf:params:oauth:token-type:${type}`,
      ...more,
    });
  };
  const owner = async (token) => {
    const answer = await fetch(`${url}/api/v1alpha/verify`, { headers: { authorization: `Bearer ${token}` } });
    assert.equal(answer.status, 200);
    return answer.headers.get("x-auth-user");
  };

  // A machine.
  const machine = async () => {
    const config = await openid.discovery(new URL(issuer), "batch", "secret", undefined, insecure);
    return (await openid.clientCredentialsGrant(config, { resource: audience })).access_token;
  };
  const exchanged = await exchange(await machine(), "jwt", { requested_life: "10 minutes" });
  assert.equal(exchanged.token_type, "bearer");
  assert.equal(exchanged.expires_in, 600);
  assert.equal(exchanged.issued_token_type, "urn:ietf:params:oauth:token-type:jwt");
  assert.equal(await owner(exchanged.access_token), "machine-batch");

  // A person, with a browser that keeps cookies.
  const config = await openid.discovery(new URL(issuer), "mayfly-cli", undefined, openid.None(), insecure);
  const verifier = openid.randomPKCECodeVerifier();
  let at = openid.buildAuthorizationUrl(config, {
    redirect_uri: callback,
    scope: "openid",
    code_challenge: await openid.calculatePKCECodeChallenge(verifier),
    code_challenge_method: "S256",
  }).href;
  const cookies = new Map();
  let body;
  for (let step = 0; !at.startsWith(callback); step++) {
    assert(step < 20, at);
    const cookie = [...cookies].map(([name, value]) => `${name}=${value}`).join("; ");
    const answer = await fetch(at, { redirect: "manual", method: body ? "POST" : "GET", headers: { cookie }, body });
    for (const set of answer.headers.getSetCookie()) {
      const [, name, value] = set.match(/^([^=]+)=([^;]*)/);
      value ? cookies.set(name, value) : cookies.delete(name);
    }
    body = undefined;
    if (answer.headers.get("location")) {
      at = new URL(answer.headers.get("location"), at).href;
    } else {
      const page = await answer.text();
      assert.equal(answer.status, 200, page);
      at = new URL(page.match(/action="([^"]+)"/)[1], at).href;
      body = new URLSearchParams({ prompt: page.match(/name="prompt" value="([^"]+)"/)[1], login: "alice", password: "any" });
    }
  }
  const { id_token } = await openid.authorizationCodeGrant(config, new URL(at), { pkceCodeVerifier: verifier });
  const own = await exchange(id_token, "id_token");
  assert.equal(own.expires_in, 86400);
  assert.equal(await owner(own.access_token), "person-alice");
  const listed = await fetch(`${url}/api/v1alpha/token`, { headers: { authorization: `Bearer ${id_token}` } });
  assert.equal(Object.keys((await listed.json()).jwt_tokens).length, 1);

  // The library reads what is wrong.
  for (const [more, error, description] of [
    [{ requested_life: "2 days" }, "invalid_request", "requested_life: must be at most 1 day here."],
    [{ scope: "\\" }, "invalid_scope", /^scope: /],
    [{ resource: "https://shop.example" }, "invalid_target", /^resource: /],
  ]) {
    const failed = await exchange(id_token, "id_token", more).then(() => assert.fail("it was exchanged"), (failed) => failed);
    assert(failed instanceof openid.ResponseBodyError, failed);
    assert.deepEqual([failed.status, failed.error], [400, error]);
    assert.match(failed.error_description, description.test ? description : RegExp(`^${description}$`));
  }

  // Another key, and no restart: it is fetched at most every 10 s.
  provide(await key("second", "RS256"));
  const rotated = await machine();
  for (let tries = 0; ; tries++) {
    const answer = await exchange(rotated, "jwt").catch((error) => error);
    if (answer.access_token) break;
    assert(tries < 300 && answer.status === 400, answer);
    await new Promise((done) => setTimeout(done, 100));
  }
} finally {
  mayfly.kill();
  server.close();
  server.closeAllConnections();
  rmSync(directory, { recursive: true });
}
