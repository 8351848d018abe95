// Dialogs: the browser keeps the focus inside, and Escape closes them.

import { Refusal } from "./api.js";
import { element } from "./dom.js";

/**
 * Opens a dialog, and resolves once it is closed.
 * @param {string} title
 * @param {import("./dom.js").Child[]} content
 * @param {{ mayClose?: () => boolean }} [options] `mayClose` is asked whenever Escape would close the dialog
 * @returns {{ dialog: HTMLDialogElement, closed: Promise<void> }}
 */
export function openDialog(title, content, { mayClose } = {}) {
  const heading = element("h2", { id: "dialog-title" }, title);
  const dialog = element("dialog", { "aria-labelledby": heading.id }, heading, ...content);
  dialog.addEventListener("cancel", (event) => { if (mayClose && !mayClose()) event.preventDefault(); });
  // Without a click in between, Chromium lets a second `cancel` be prevented no more: the key itself always can be.
  const onKey = (/** @type {KeyboardEvent} */ event) => {
    if (!mayClose || event.key !== "Escape" || event.isComposing) return;
    event.preventDefault();
    if (mayClose()) dialog.close();
  };
  addEventListener("keydown", onKey);
  document.body.append(dialog);
  dialog.showModal();
  const closed = new Promise((/** @type {(nothing: void) => void} */ resolve) => {
    dialog.addEventListener("close", () => { removeEventListener("keydown", onKey); dialog.remove(); resolve(); });
  });
  return { dialog, closed };
}

/**
 * A form in a dialog. `submit` may throw a {@link Refusal}, which is shown in the dialog; otherwise the dialog closes.
 * @param {string} title
 * @param {import("./dom.js").Child[]} content
 * @param {string} action the words of the button
 * @param {() => Promise<void>} submit
 * @param {{ danger?: boolean }} [options]
 */
export function openForm(title, content, action, submit, { danger = false } = {}) {
  const error = element("p", { class: "error", role: "alert" });
  const button = element("button", { type: "submit", class: danger ? "danger" : "primary" }, action);
  const form = element(
    "form",
    { method: "dialog" },
    ...content,
    error,
    element(
      "div",
      { class: "buttons" },
      element("button", { type: "button", click: () => opened.dialog.close() }, "Cancel"),
      button,
    ),
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    error.textContent = "";
    try {
      await submit();
      opened.dialog.close();
    } catch (refusal) {
      if (!(refusal instanceof Refusal)) throw refusal;
      error.textContent = refusal.message;
    } finally {
      button.disabled = false;
    }
  });
  const opened = openDialog(title, [form]);
  return opened;
}

/**
 * Asks once more before something that cannot be undone.
 * @param {string} question names what it is about
 * @param {string} consequence
 * @param {string} action
 * @param {() => Promise<void>} submit
 */
export const confirmThen = (question, consequence, action, submit) =>
  openForm(question, [element("p", {}, consequence)], action, submit, { danger: true });
