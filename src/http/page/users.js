// For administrators: the users, a page at a time.

import { Refusal, addUser, changeUser, findUser, listUsers, removeUser, setPassword } from "./api.js";
import { confirmThen, openForm } from "./dialogs.js";
import { element, field, notice } from "./dom.js";
import { day, fullMoment } from "./life.js";

const PAGE = 50;
const ROLES = ["user", "introspector", "admin"];
const LAST_ADMIN = "This is the last administrator who is not disabled. Make another one first.";

/** @typedef {import("./api.js").User} User */

/** @param {User} user */
const isEnabledAdmin = (user) => user.role === "admin" && !user.disabled;

/** The view of the users. */
export class UserView {
  /** @param {import("./api.js").Caller} caller */
  constructor(caller) {
    this.caller = caller;
    /** @type {User[]} */
    this.users = [];
    /** @type {string | null} the only enabled administrator, if there is only one */
    this.lastAdmin = null;
    this.search = element("input", { type: "search", placeholder: "Beginning of the name", "aria-label": "Search users", autocapitalize: "none", input: () => this.reload() });
    this.body = element("tbody", { role: "rowgroup" });
    this.more = element("button", { type: "button", hidden: true, click: () => this.loadMore() }, "More users");
    this.empty = element("p", { class: "empty" });
    this.root = element(
      "div",
      {},
      element("div", { class: "bar" }, element("h1", {}, "Users"), element("button", { type: "button", class: "primary", click: () => this.askAdd() }, "Add user")),
      element("div", { class: "bar tools" }, this.search),
      element(
        "table",
        { class: "users", role: "table" },
        element("caption", { class: "hidden" }, "Users"),
        element("thead", { role: "rowgroup" }, element(
          "tr",
          { role: "row" },
          ...["Name", "Role", "State", "Added"].map((name) => element("th", { scope: "col", role: "columnheader" }, name)),
          element("th", { scope: "col", role: "columnheader" }, element("span", { class: "hidden" }, "Actions")),
        )),
        this.body,
      ),
      this.empty,
      this.more,
    );
  }

  start() {
    return this.reload();
  }

  stop() {}

  /** Reads the first page again. The answer to an older search is dropped. */
  async reload() {
    const prefix = this.search.value.trim();
    try {
      // A name itself does not come after itself.
      const [exact, page] = await Promise.all([prefix ? findUser(prefix) : null, listUsers(prefix, PAGE)]);
      if (prefix !== this.search.value.trim()) return;
      this.users = [...(exact ? [exact] : []), ...page.users];
      this.show(page.more);
      await this.findLastAdmin();
    } catch (refusal) {
      if (!(refusal instanceof Refusal)) throw refusal;
      this.empty.textContent = refusal.message;
    }
  }

  async loadMore() {
    const page = await listUsers(this.users[this.users.length - 1].username, PAGE);
    this.users.push(...page.users);
    this.show(page.more);
  }

  /** Looks for two enabled administrators: there is a last one only if there are not. */
  async findLastAdmin() {
    /** @type {Set<string>} */
    const admins = new Set(this.users.filter(isEnabledAdmin).map((user) => user.username));
    let after = "";
    for (let more = true; more && admins.size < 2; ) {
      const page = await listUsers(after, 1000);
      page.users.filter(isEnabledAdmin).forEach((user) => admins.add(user.username));
      more = page.more;
      after = page.users[page.users.length - 1]?.username ?? "";
    }
    const last = admins.size === 1 ? [...admins][0] : null;
    if (last !== this.lastAdmin) {
      this.lastAdmin = last;
      this.show(!this.more.hidden);
    }
  }

  /** @param {boolean} more whether further users follow */
  show(more) {
    const prefix = this.search.value.trim();
    const shown = this.users.filter((user) => user.username.startsWith(prefix));
    this.body.replaceChildren(...shown.map((user) => this.makeRow(user)));
    // The names are sorted: beyond the prefix there is nothing more.
    this.more.hidden = !more || shown.length < this.users.length;
    this.empty.textContent = shown.length ? "" : "No user's name begins like this.";
  }

  /** @param {User} user */
  makeRow(user) {
    const name = user.username;
    const added = user.created_at * 1000;
    const isLast = name === this.lastAdmin;
    const off = isLast ? { disabled: true, title: LAST_ADMIN, "aria-description": LAST_ADMIN } : {};
    const origin = user.origin && user.origin !== "password" &&
      element("span", { class: "marks" }, element("span", { class: "mark" }, `logged in by ${user.origin}`));
    const role = element("select", { "aria-label": `Role of ${name}`, ...off, change: () => this.change(user, { role: role.value }) },
      ...ROLES.map((one) => element("option", { selected: one === user.role }, one)));
    return element(
      "tr",
      { "data-user": name, role: "row" },
      element("th", { scope: "row", role: "rowheader" }, element("a", { class: "name", href: `#users/${encodeURIComponent(name)}` }, name), origin),
      element("td", { role: "cell", "data-label": "Role" }, role),
      element("td", { role: "cell", "data-label": "State" }, user.disabled ? "disabled" : "enabled"),
      element("td", { role: "cell", "data-label": "Added" }, element("time", { datetime: new Date(added).toISOString(), title: fullMoment(added) }, day(added))),
      element(
        "td",
        { role: "cell", class: "actions" },
        element("button", { type: "button", click: () => this.askPassword(user), "aria-label": `Password of ${name}` }, "Password"),
        user.disabled
          ? element("button", { type: "button", click: () => this.change(user, { disabled: false }), "aria-label": `Enable ${name}` }, "Enable")
          : element("button", { type: "button", class: "quiet", ...off, click: () => this.askDisable(user), "aria-label": `Disable ${name}` }, "Disable"),
        element("button", { type: "button", class: "danger quiet", ...off, click: () => this.askRemove(user), "aria-label": `Remove ${name}` }, "Remove"),
        isLast && element("span", { class: "hint" }, LAST_ADMIN),
      ),
    );
  }

  /**
   * @param {User} user
   * @param {{ role?: string, disabled?: boolean }} change
   */
  async change(user, change) {
    try {
      await changeUser(user.username, change);
      notice(`${user.username} is ${change.role ?? (change.disabled ? "disabled" : "enabled")} now.`);
    } catch (refusal) {
      if (!(refusal instanceof Refusal)) throw refusal;
      notice(refusal.message, "failed");
    }
    await this.reload();
  }

  askAdd() {
    const name = element("input", { required: true, maxlength: 64, autocapitalize: "none", autocomplete: "off" });
    const password = element("input", { type: "password", required: true, autocomplete: "new-password" });
    const role = element("select", {}, ...ROLES.map((one) => element("option", {}, one)));
    openForm(
      "Add user",
      [field("Name", name), field("Password", password), field("Role", role, "An introspector may ask about the tokens of others; an admin may do everything.")],
      "Add user",
      async () => {
        await addUser({ username: name.value, password: password.value, role: role.value });
        notice(`${name.value} is added.`);
        await this.reload();
      },
    );
  }

  /** @param {User} user */
  askPassword({ username }) {
    const password = element("input", { type: "password", required: true, autocomplete: "new-password" });
    const revoke = element("input", { type: "checkbox" });
    openForm(
      `New password of ${username}`,
      [field("Password", password), element("label", { class: "check" }, revoke, "Revoke all tokens of the user, too")],
      "Change password",
      async () => {
        await setPassword(username, password.value, revoke.checked);
        notice(`${username} has a new password.`);
      },
    );
  }

  /** @param {User} user */
  askDisable(user) {
    confirmThen(`Disable ${user.username}?`, "All tokens of the user are revoked, and the user cannot log in until enabled again.", "Disable user", () =>
      this.change(user, { disabled: true }));
  }

  /** @param {User} user */
  askRemove({ username }) {
    confirmThen(`Remove ${username}?`, "All tokens of the user are revoked. This cannot be undone.", "Remove user", async () => {
      await removeUser(username);
      notice(`${username} is removed.`);
      await this.reload();
    });
  }
}
