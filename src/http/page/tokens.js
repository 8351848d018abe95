// Tokens and how long they live on: one's own, or those of a user.

import { Refusal, listTokens, revokeAllTokens, revokeToken, rotateToken } from "./api.js";
import { confirmThen, openForm } from "./dialogs.js";
import { element, field, notice } from "./dom.js";
import { ago, inWords, fullMoment, moment } from "./life.js";
import { openNewToken, showJwt } from "./new-token.js";
import { Timeline, isUnused } from "./timeline.js";

/** How often the list is read again, in ms: what is revoked elsewhere goes from this page, too. */
const REFRESH = 4000;

/**
 * @typedef {import("./api.js").Token} Token
 * A row, with the text that the filter looks at.
 * @typedef {{ token: Token, row: HTMLTableRowElement, text: string, left: HTMLElement, life: HTMLElement, used: HTMLElement }} Row
 */

/** The columns that one can sort by, and what is compared. @type {Record<string, (token: Token) => string | number>} */
const COLUMNS = {
  Description: (token) => token.description.toLowerCase(),
  "Time left": (token) => token.expires,
  Issued: (token) => token.issued,
  "Last used": (token) => token.lastUsed ?? 0,
};

/** Said where one points at the heading of a column. @type {Record<string, string>} */
const HINTS = { "Last used": "Up to 60 seconds late" };

/** The view of a list of tokens. */
export class TokenView {
  /**
   * @param {import("./api.js").Caller} caller
   * @param {string | null} user whose tokens; null: the caller's own
   */
  constructor(caller, user) {
    this.caller = caller;
    this.user = user;
    /** @type {Map<string, Row>} */
    this.rows = new Map();
    this.sort = { column: "Issued", descending: true };
    this.timeline = new Timeline();
    this.isStopped = false;

    this.filter = element("input", { type: "search", placeholder: "Filter by description, scope or id", "aria-label": "Filter tokens", input: () => this.filterRows() });
    this.unused = element("input", { type: "checkbox", change: () => this.filterRows() });
    this.unusedCount = element("span");
    this.headers = Object.keys(COLUMNS).map((column) => element(
      "th",
      { scope: "col", role: "columnheader" },
      element("button", { type: "button", class: "sort", title: HINTS[column], click: () => this.sortBy(column) }, column),
    ));
    this.body = element("tbody", { role: "rowgroup" });
    const actions = element("th", { scope: "col", role: "columnheader" }, element("span", { class: "hidden" }, "Actions"));
    this.table = element(
      "table",
      { class: "tokens", role: "table" },
      element("caption", { class: "hidden" }, user === null ? "Your tokens" : `Tokens of ${user}`),
      element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...this.headers, actions)),
      this.body,
    );
    this.empty = element("p", { class: "empty" });
    this.revokeAll = element("button", { type: "button", class: "danger quiet", click: () => this.askRevokeAll() }, "Revoke all");
    this.tools = element("div", { class: "bar tools" }, this.filter, element("label", { class: "check" }, this.unused, "Unused ", this.unusedCount), this.revokeAll);
    this.root = element(
      "div",
      {},
      element(
        "div",
        { class: "bar" },
        element("h1", {}, user === null ? "Your tokens" : `Tokens of ${user}`),
        user === null && element("button", { type: "button", class: "primary", click: () => openNewToken(caller, () => this.refresh()) }, "New token"),
      ),
      this.timeline.root,
      this.tools,
      this.table,
      this.empty,
    );
    // They say nothing without a token.
    this.timeline.root.hidden = this.tools.hidden = this.table.hidden = true;
  }

  /** Reads and shows the tokens until {@link stop}. */
  start() {
    this.ticking = setInterval(() => this.tick(), 1000);
    this.refreshing = setInterval(() => { if (!document.hidden) this.refresh(); }, REFRESH);
    return this.refresh();
  }

  stop() {
    this.isStopped = true;
    clearInterval(this.ticking);
    clearInterval(this.refreshing);
  }

  async refresh() {
    let tokens;
    try {
      tokens = await listTokens(this.user);
    } catch (refusal) {
      if (!(refusal instanceof Refusal)) throw refusal;
      this.empty.textContent = refusal.message;
      return;
    }
    if (this.isStopped) return;
    const ids = new Set(tokens.map((token) => token.id));
    for (const id of [...this.rows.keys()].filter((id) => !ids.has(id))) this.remove(id);
    let isNew = false;
    for (const token of tokens) {
      const row = this.rows.get(token.id);
      // What a rotation or a use changed; the rest of a token never changes.
      if (row) Object.assign(row.token, { expires: token.expires, lastUsed: token.lastUsed });
      else {
        this.rows.set(token.id, this.makeRow(token));
        isNew = true;
      }
    }
    this.tick();
    if (isNew) this.sortRows();
    this.update();
  }

  /** Shows what is left after tokens came or went. */
  update() {
    this.filterRows();
    this.summarize();
  }

  /** @param {Token} token @returns {Row} */
  makeRow(token) {
    const [left, life, used] = [element("span"), element("span", { class: "life" }), element("span")];
    const marks = [...token.scopes, ...token.audiences.map((audience) => `for ${audience}`), ...token.networks.map((network) => `from ${network}`)];
    const ownActions = this.user === null && element("button", { type: "button", click: () => this.askRotate(token), "aria-label": `Rotate ${token.description}` }, "Rotate");
    const row = element(
      "tr",
      { "data-id": token.id, role: "row" },
      element("th", { scope: "row", role: "rowheader" }, element("span", { class: "name", dir: "auto" }, token.description),
        marks.length > 0 && element("span", { class: "marks" }, ...marks.map((mark) => element("span", { class: "mark" }, mark)))),
      element("td", { role: "cell", "data-label": "Time left" }, left, element("span", { class: "track", "aria-hidden": "true" }, life),
        element("time", { datetime: new Date(token.expires).toISOString(), title: fullMoment(token.expires) }, `until ${moment(token.expires)}`)),
      element("td", { role: "cell", "data-label": "Issued" }, element("time", { datetime: new Date(token.issued).toISOString(), title: fullMoment(token.issued) }, moment(token.issued))),
      element("td", { role: "cell", "data-label": "Last used" }, used),
      element("td", { role: "cell", class: "actions" }, ownActions,
        element("button", { type: "button", class: "danger quiet", click: () => this.askRevoke(token), "aria-label": `Revoke ${token.description}` }, "Revoke")),
    );
    const text = [token.description, token.id, ...token.scopes, ...token.audiences, ...token.networks].join(" ").toLowerCase();
    return { token, row, text, left, life, used };
  }

  /** @param {string} id */
  remove(id) {
    this.rows.get(id)?.row.remove();
    this.rows.delete(id);
  }

  /** Lets the lives run down, and takes away what has expired. */
  tick() {
    const now = Date.now();
    /** @type {string[]} */
    const expired = [];
    for (const [id, { token, left, life, used }] of this.rows) {
      const seconds = (token.expires - now) / 1000;
      if (seconds <= 0) {
        this.remove(id);
        expired.push(token.description);
        continue;
      }
      const words = inWords(seconds);
      if (left.textContent !== words) left.textContent = words;
      life.style.transform = `scaleX(${Math.min(1, seconds / token.life).toFixed(4)})`;
      life.classList.toggle("ending", seconds / token.life < 0.1);
      const usedWords = token.lastUsed === null ? "never" : ago(token.lastUsed);
      if (used.textContent !== usedWords) used.textContent = usedWords;
    }
    if (!expired.length) return;
    notice(expired.length > 3 ? `${expired.length} tokens have expired.` : `“${expired.join("”, “")}” has expired.`);
    this.update();
  }

  /** @param {string} column */
  sortBy(column) {
    this.sort = { column, descending: this.sort.column === column ? !this.sort.descending : false };
    this.sortRows();
  }

  sortRows() {
    const { column, descending } = this.sort;
    for (const [index, name] of Object.keys(COLUMNS).entries()) {
      const order = name !== column ? null : descending ? "descending" : "ascending";
      if (order) this.headers[index].setAttribute("aria-sort", order);
      else this.headers[index].removeAttribute("aria-sort");
    }
    const rows = [...this.rows.values()].sort(({ token: a }, { token: b }) => {
      const [x, y] = [COLUMNS[column](a), COLUMNS[column](b)];
      return (x < y ? -1 : x > y ? 1 : 0) * (descending ? -1 : 1);
    });
    this.body.append(...rows.map(({ row }) => row));
  }

  /** Shows the rows that match. Moving none of them keeps a thousand at the speed of typing. */
  filterRows() {
    const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let isAnyShown = false;
    for (const { token, row, text } of this.rows.values()) {
      const isShown = words.every((word) => text.includes(word)) && (!this.unused.checked || isUnused(token));
      if (row.hidden === isShown) row.hidden = !isShown;
      isAnyShown ||= isShown;
    }
    this.table.hidden = !isAnyShown;
    this.empty.textContent = isAnyShown ? ""
      : this.rows.size ? "No token matches."
      : this.user === null ? "You have no tokens. Make one with “New token”." : "No tokens.";
  }

  /** Draws the timeline, and counts, after a change of the tokens. */
  summarize() {
    const tokens = [...this.rows.values()].map(({ token }) => token);
    this.timeline.update(tokens);
    this.unusedCount.textContent = `(${tokens.filter(isUnused).length})`;
    this.timeline.root.hidden = this.tools.hidden = tokens.length === 0;
  }

  /** @param {Token} token */
  askRotate(token) {
    const overlap = element("input", { maxlength: 64, value: "", placeholder: "not at all", autocomplete: "off" });
    openForm(
      `Rotate “${token.description}”`,
      [
        element("p", {}, `Makes a new token with the same description and life of ${inWords(token.life)}.`),
        field("The old one still works for", overlap, "A duration such as 1 hour, for those who have to change over. Empty: it ends at once."),
      ],
      "Rotate token",
      async () => {
        const issued = await rotateToken(token.id, overlap.value.trim());
        await this.refresh();
        showJwt(token.description, issued.jwt_token);
      },
    );
  }

  /** @param {Token} token */
  askRevoke(token) {
    confirmThen(
      `Revoke “${token.description}”?`,
      "Whatever uses it is refused from that moment on, everywhere. This cannot be undone.",
      "Revoke token",
      async () => {
        await revokeToken(this.user, token.id);
        this.remove(token.id);
        this.update();
        notice(`“${token.description}” is revoked.`);
      },
    );
  }

  askRevokeAll() {
    const count = this.rows.size;
    const owner = this.user ?? this.caller.username;
    confirmThen(
      `Revoke all ${count} tokens of ${owner}?`,
      "Whatever uses one of them is refused from that moment on, everywhere. This cannot be undone.",
      "Revoke all",
      async () => {
        const answer = await revokeAllTokens(this.user);
        for (const id of [...this.rows.keys()]) this.remove(id);
        this.update();
        notice(`${answer.jwt_tokens_deleted} tokens of ${owner} are revoked.`);
      },
    );
  }
}
