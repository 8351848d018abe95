// The page: signs in, and shows the view that the address names after `#`.

import { Refusal, isSignedInByPassword, signOut, whenSignedOut, whoami } from "./api.js";
import { element } from "./dom.js";
import { showSignIn } from "./sign-in.js";
import { TokenView } from "./tokens.js";
import { UserView } from "./users.js";

const top = /** @type {HTMLElement} */ (document.getElementById("top"));
const view = /** @type {HTMLElement} */ (document.getElementById("view"));

/** @type {import("./api.js").Caller | null} */
let caller = null;
/** @type {TokenView | UserView | null} */
let current = null;

/** @param {string} [message] */
function askToSignIn(message = "") {
  current?.stop();
  current = caller = null;
  top.hidden = true;
  document.title = "Sign in · Mayfly";
  showSignIn(view, message, enter);
}

/** @param {import("./api.js").Caller} who */
function enter(who) {
  caller = who;
  const leave = () => { signOut(); askToSignIn(); };
  top.replaceChildren(
    element("a", { href: "#tokens", class: "brand", "aria-label": "Mayfly" }, element("img", { src: "page/icon.svg", alt: "", width: 24, height: 24 }), element("span", {}, "Mayfly")),
    element(
      "nav",
      { "aria-label": "Views" },
      element("a", { href: "#tokens" }, "Tokens"),
      who.role === "admin" && element("a", { href: "#users" }, "Users"),
    ),
    element("span", { class: "who" }, who.username),
    isSignedInByPassword() && element("button", { type: "button", class: "quiet", click: leave }, "Sign out") || "",
  );
  top.hidden = false;
  route();
  view.focus();
}

function route() {
  if (!caller) return;
  const [place, user] = location.hash.slice(1).split("/").map(decodeURIComponent);
  const isAdmin = caller.role === "admin";
  current?.stop();
  if (place === "users" && isAdmin) current = user ? new TokenView(caller, user) : new UserView(caller);
  else current = new TokenView(caller, null);
  document.title = `${place === "users" && isAdmin ? (user ?? "Users") : "Tokens"} · Mayfly`;
  for (const link of top.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === `#${place === "users" && isAdmin ? "users" : "tokens"}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  view.replaceChildren(current.root);
  current.start();
}

addEventListener("hashchange", route);
whenSignedOut(() => askToSignIn("Sign in again: the password was changed, or the user disabled."));

// A proxy in front may have signed the person in.
try {
  enter(await whoami());
} catch (refusal) {
  if (!(refusal instanceof Refusal)) throw refusal;
  askToSignIn(refusal.status === 401 ? "" : refusal.message);
}
