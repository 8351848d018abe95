// Sign in with name and password, which stay in memory.

import { Refusal, signIn } from "./api.js";
import { element, field } from "./dom.js";

/**
 * @param {HTMLElement} view
 * @param {string} message why one has to sign in again
 * @param {(caller: import("./api.js").Caller) => void} then
 */
export function showSignIn(view, message, then) {
  const name = element("input", { name: "username", autocomplete: "username", autocapitalize: "none", required: true });
  const password = element("input", { name: "password", type: "password", autocomplete: "current-password", required: true });
  const button = element("button", { type: "submit", class: "primary" }, "Sign in");
  const error = element("p", { class: "error", role: "alert" }, message);
  const form = element(
    "form",
    { class: "card sign-in" },
    element("h1", {}, element("img", { src: "page/icon.svg", alt: "", width: 32, height: 32 }), "Mayfly"),
    element("p", {}, "API tokens that live exactly as long as you say."),
    field("Name", name),
    field("Password", password),
    error,
    button,
    element("p", { class: "hint" }, "The password stays in this tab alone: closing or reloading it signs you out."),
  );

  /** @param {number} seconds */
  function wait(seconds) {
    const until = Date.now() + seconds * 1000;
    const tick = () => {
      const left = Math.ceil((until - Date.now()) / 1000);
      button.disabled = left > 0;
      error.textContent = left > 0 ? `Too many failed logins. You can try again in ${left} s.` : "You can try again.";
      if (left > 0) setTimeout(tick, 250);
    };
    tick();
  }

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    error.textContent = "";
    try {
      then(await signIn(name.value, password.value));
    } catch (refusal) {
      if (!(refusal instanceof Refusal)) throw refusal;
      button.disabled = false;
      if (refusal.status === 429) return wait(refusal.retryAfter || 1);
      error.textContent = refusal.message;
      password.select();
    }
  });
  view.replaceChildren(form);
  name.focus();
}
