// A new token: what it is for, how long it lives, and then its JWT, once.

import { issueToken } from "./api.js";
import { openDialog, openForm } from "./dialogs.js";
import { copy, element, field } from "./dom.js";
import { fullMoment, inWords, parseLife } from "./life.js";

const PRESETS = ["1 hour", "8 hours", "1 day", "7 days", "30 days", "90 days", "1 year"];

/**
 * @param {import("./api.js").Caller} caller
 * @param {() => void} then called once the token exists
 */
export function openNewToken(caller, then) {
  const description = element("input", { required: true, maxlength: 256, placeholder: "CI of the shop" });
  const life = element("input", { required: true, maxlength: 64, autocomplete: "off", value: "30 days" });
  const expiry = element("output", { class: "hint" });
  const scopes = element("input", { autocomplete: "off", placeholder: "deploy read:orders" });
  const audiences = element("textarea", { rows: 2, placeholder: "https://orders.example" });
  const networks = element("textarea", { rows: 2, placeholder: "10.0.0.0/8" });
  const longest = caller.jwt_token_max_life;
  const presets = PRESETS.filter((preset) => (parseLife(preset) ?? 0) <= longest).map((preset) =>
    element("button", { type: "button", class: "chip", click: () => { life.value = preset; show(); } }, preset));

  function show() {
    const seconds = parseLife(life.value);
    for (const preset of presets) preset.setAttribute("aria-pressed", String(preset.textContent === life.value.trim()));
    expiry.textContent = seconds === null ? "Not a duration: write 6 hours, 90m or 1h 30m."
      : seconds > longest ? `At most ${inWords(longest)}.`
      : `Expires ${fullMoment(Date.now() + seconds * 1000)}.`;
  }
  life.addEventListener("input", show);
  show();

  /** @param {string} text */
  const lines = (text) => text.split(/[\s,]+/).filter(Boolean);
  openForm(
    "New token",
    [
      field("What is it for?", description),
      field("How long does it live?", life, expiry),
      element("div", { class: "chips", role: "group", "aria-label": "Usual lives" }, ...presets),
      element(
        "details",
        {},
        element("summary", {}, "Limits (optional): scopes, audiences, networks"),
        field("Scopes", scopes, "Separated by spaces. Services demand them at verification."),
        field("Audiences", audiences, "The services that may accept it, one a line. Left out: all."),
        field("Networks", networks, "The addresses that may use it, one a line. Left out: all."),
      ),
    ],
    "Create token",
    async () => {
      /** @type {Record<string, unknown>} */
      const request = { jwt_token_description: description.value, jwt_token_life: life.value };
      for (const [name, values] of Object.entries({ scopes, audiences, networks })) {
        if (lines(values.value).length) request[`jwt_token_${name}`] = lines(values.value);
      }
      const issued = await issueToken(request);
      then();
      showJwt(description.value.trim(), issued.jwt_token);
    },
  );
  description.focus();
}

/**
 * Shows the JWT, which cannot be had again: leaving without having copied it is asked about.
 * @param {string} description
 * @param {string} jwt
 */
export function showJwt(description, jwt) {
  let isCopied = false;
  const text = element("textarea", { class: "jwt", readonly: true, rows: 8, spellcheck: "false", "aria-label": "The token" });
  text.value = jwt;
  const url = new URL("api/v1alpha/verify", document.baseURI).href;
  const command = element("textarea", { class: "jwt", readonly: true, rows: 3, spellcheck: "false", "aria-label": "A command to try it" });
  command.value = `curl -i -H "Authorization: Bearer ${jwt}" ${url}`;
  const state = element("p", { class: "hint", role: "status" });
  /** @param {HTMLTextAreaElement} source @param {string} said */
  const copyFrom = (source, said) => async (/** @type {MouseEvent} */ { currentTarget }) => {
    // Gone once the copy is awaited.
    const button = /** @type {HTMLButtonElement} */ (currentTarget);
    await copy(source);
    isCopied = true;
    button.textContent = "Copied";
    state.textContent = said;
  };
  const mayClose = () => isCopied || confirm("You have not copied the token, and it cannot be shown again. Close all the same?");
  const beforeUnload = (/** @type {Event} */ event) => { if (!isCopied) event.preventDefault(); };
  text.addEventListener("copy", () => { isCopied = true; });
  addEventListener("beforeunload", beforeUnload);
  const { dialog, closed } = openDialog(
    `“${description}” is ready`,
    [
      element("p", { class: "warning" }, "Copy the token now: it is stored nowhere, and shown only this once."),
      text,
      element("div", { class: "buttons" },
        element("button", { type: "button", class: "primary", autofocus: true, click: copyFrom(text, "The token is copied.") }, "Copy token")),
      element("details", {}, element("summary", {}, "Try it with curl"), command,
        element("button", { type: "button", click: copyFrom(command, "The command is copied.") }, "Copy command")),
      state,
      element("div", { class: "buttons" },
        element("button", { type: "button", click: () => { if (mayClose()) dialog.close(); } }, "Done")),
    ],
    { mayClose },
  );
  closed.then(() => removeEventListener("beforeunload", beforeUnload));
}
