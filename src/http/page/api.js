// The public API. What was typed to sign in is kept here, in memory, until the tab is closed or reloaded.

/**
 * @typedef {object} Caller
 * @property {string} username
 * @property {string} role
 * @property {number} jwt_token_max_life in seconds
 * @property {number} jwt_token_quota
 *
 * @typedef {object} Token
 * @property {string} id
 * @property {string} description
 * @property {number} life in seconds
 * @property {number} expires in ms since 1970, by this machine's clock
 * @property {number} issued in ms since 1970, by this machine's clock
 * @property {number | null} lastUsed in ms since 1970
 * @property {string[]} scopes
 * @property {string[]} audiences
 * @property {string[]} networks
 *
 * @typedef {object} User
 * @property {string} username
 * @property {string} role
 * @property {boolean} disabled
 * @property {number} created_at in seconds since 1970
 * @property {string} [origin]
 */

/** A refusal of the service, or no answer at all (status 0). */
export class Refusal extends Error {
  /**
   * @param {number} status
   * @param {string} detail
   * @param {number} retryAfter in seconds
   */
  constructor(status, detail, retryAfter) {
    super(detail);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** @type {string | null} */
let authorization = null;
let onSignedOut = () => {};

/** @param {() => void} listener called when the service no longer takes the login */
export const whenSignedOut = (listener) => { onSignedOut = listener; };

/**
 * Signs in, or throws a {@link Refusal}.
 * @param {string} name
 * @param {string} password
 * @returns {Promise<Caller>}
 */
export async function signIn(name, password) {
  const bytes = new TextEncoder().encode(`${name}:${password}`);
  authorization = `Basic ${btoa(String.fromCharCode(...bytes))}`;
  try {
    return await whoami();
  } catch (refusal) {
    authorization = null;
    throw refusal;
  }
}

export const signOut = () => { authorization = null; };

/** Whether a password was typed; otherwise a proxy says who the person is. */
export const isSignedInByPassword = () => authorization !== null;

/** @returns {Promise<Caller>} */
export const whoami = () => call("GET", "whoami");

/**
 * @param {string} method
 * @param {string} path below `api/v1alpha/`
 * @param {{ body?: unknown, headers?: Record<string, string> }} [options]
 */
async function send(method, path, { body, headers } = {}) {
  /** @type {Record<string, string>} */
  const all = { "X-Requested-With": "XMLHttpRequest", ...headers };
  if (authorization) all.Authorization = authorization;
  if (body !== undefined) all["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(`api/v1alpha/${path}`, {
      method,
      headers: all,
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store",
      redirect: "error",
    });
  } catch {
    throw new Refusal(0, "The service does not answer. Check the connection and try again.", 0);
  }
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({}));
  const detail = typeof problem.detail === "string" ? problem.detail : `The service answered with ${answer.status}.`;
  if (answer.status === 401 && authorization && path !== "whoami") onSignedOut();
  throw new Refusal(answer.status, detail, Number(answer.headers.get("Retry-After")) || 0);
}

/**
 * @param {string} method
 * @param {string} path
 * @param {{ body?: unknown, headers?: Record<string, string> }} [options]
 */
const call = async (method, path, options) => (await send(method, path, options)).json();

/**
 * The base of a list of tokens: one's own, or those of a user.
 * @param {string | null} user
 */
const base = (user) => (user === null ? "token" : `user/${encodeURIComponent(user)}/token`);

/**
 * @param {string | null} user null: one's own tokens
 * @returns {Promise<Token[]>}
 */
export async function listTokens(user) {
  const answer = await call("GET", base(user));
  const now = Date.now();
  return Object.entries(answer.jwt_tokens).map(([id, token]) => {
    const expires = now + token.jwt_token_remaining_life * 1000;
    return {
      id,
      description: token.jwt_token_description,
      life: token.jwt_token_life,
      expires,
      issued: expires - token.jwt_token_life * 1000,
      lastUsed: token.jwt_token_last_used ? token.jwt_token_last_used * 1000 : null,
      scopes: token.jwt_token_scopes ?? [],
      audiences: token.jwt_token_audiences ?? [],
      networks: token.jwt_token_networks ?? [],
    };
  });
}

/** A key by which the service recognizes a request that is sent again. `randomUUID` needs TLS or this machine. */
const idempotencyKey = () => Array.from(crypto.getRandomValues(new Uint32Array(4)), (part) => part.toString(36)).join("-");

/**
 * Sends a request that creates a token, and sends it once more if its answer is lost: with the same key, nothing is
 * created twice.
 * @param {string} path
 * @param {unknown} body
 * @returns {Promise<{ jwt_token: string, jwt_token_id: string }>}
 */
async function create(path, body) {
  const options = { body, headers: { "Idempotency-Key": idempotencyKey() } };
  try {
    return await call("POST", path, options);
  } catch (refusal) {
    if (refusal instanceof Refusal && refusal.status === 0) return call("POST", path, options);
    throw refusal;
  }
}

/** @param {Record<string, unknown>} request */
export const issueToken = (request) => create("token", request);

/**
 * @param {string} id
 * @param {string} overlap a duration; "" ends the old token at once
 */
export const rotateToken = (id, overlap) => create(`token/${id}/rotate`, overlap ? { overlap } : {});

/**
 * @param {string | null} user
 * @param {string} id
 */
export const revokeToken = (user, id) => call("DELETE", `${base(user)}/${id}`);

/** @param {string | null} user */
export const revokeAllTokens = (user) => call("DELETE", `${base(user)}?all=true`);

/**
 * A page of users.
 * @param {string} after a name
 * @param {number} limit
 * @returns {Promise<{ users: User[], more: boolean }>}
 */
export async function listUsers(after, limit) {
  const query = new URLSearchParams({ limit: String(limit), ...(after && { after }) });
  const answer = await send("GET", `user?${query}`);
  return { users: (await answer.json()).users, more: answer.headers.has("Link") };
}

/**
 * @param {string} name
 * @returns {Promise<User | null>}
 */
export async function findUser(name) {
  try {
    return await call("GET", `user/${encodeURIComponent(name)}`);
  } catch (refusal) {
    if (refusal instanceof Refusal && refusal.status === 404) return null;
    throw refusal;
  }
}

/** @param {{ username: string, password: string, role: string }} user */
export const addUser = (user) => call("POST", "user", { body: user });

/**
 * @param {string} name
 * @param {{ role?: string, disabled?: boolean }} change
 */
export const changeUser = (name, change) => call("PATCH", `user/${encodeURIComponent(name)}`, { body: change });

/**
 * @param {string} name
 * @param {string} password
 * @param {boolean} revokeTokens
 */
export const setPassword = (name, password, revokeTokens) =>
  call("PUT", `user/${encodeURIComponent(name)}/password`, { body: { password, revoke_tokens: revokeTokens } });

/** @param {string} name */
export const removeUser = (name) => call("DELETE", `user/${encodeURIComponent(name)}`);
