// Elements without HTML text: whatever a token or a user is called, it is never parsed.

/** @typedef {Node | string | null | undefined | false} Child */

/**
 * Makes an element. A property is a listener if it is a function (`click`), else an attribute; `true` sets an empty
 * one, and `false`, `null` and `undefined` none.
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, unknown>} [properties]
 * @param {Child[]} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function element(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/**
 * Makes an element of SVG.
 * @param {string} tag
 * @param {Record<string, unknown>} [properties]
 * @param {Child[]} children
 * @returns {SVGElement}
 */
export function drawing(tag, properties = {}, ...children) {
  return fill(/** @type {SVGElement} */ (document.createElementNS("http://www.w3.org/2000/svg", tag)), properties, children);
}

/**
 * @template {Element} T
 * @param {T} target
 * @param {Record<string, unknown>} properties
 * @param {Child[]} children
 * @returns {T}
 */
function fill(target, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (typeof value === "function") {
      target.addEventListener(name, /** @type {EventListener} */ (value));
    } else if (value !== false && value !== null && value !== undefined) {
      target.setAttribute(name, value === true ? "" : String(value));
    }
  }
  target.append(...children.filter((child) => child || child === "").map((child) => /** @type {Node | string} */ (child)));
  return target;
}

let lastId = 0;

/**
 * A labelled field.
 * @param {string} label
 * @param {HTMLInputElement | HTMLTextAreaElement | HTMLSelectElement} input
 * @param {Child} [hint] a line below the field
 */
export function field(label, input, hint) {
  input.id = `field-${++lastId}`;
  const below = hint ? element("p", { class: "hint", id: `${input.id}-hint` }, hint) : null;
  if (below) input.setAttribute("aria-describedby", below.id);
  return element("div", { class: "field" }, element("label", { for: input.id }, label), input, below);
}

/**
 * Says something for some seconds, at the edge of the page and to screen readers.
 * @param {string} text
 * @param {"done" | "failed"} [kind]
 */
export function notice(text, kind = "done") {
  const note = element("p", { class: `notice ${kind}` }, text);
  document.getElementById("notices")?.append(note);
  setTimeout(() => note.remove(), kind === "done" ? 5000 : 12000);
}

/**
 * Copies a text, also where the page has no access to the clipboard: plain HTTP, except on this machine.
 * @param {HTMLTextAreaElement | HTMLInputElement} source
 */
export async function copy(source) {
  try {
    await navigator.clipboard.writeText(source.value);
  } catch {
    source.select();
    document.execCommand("copy");
  }
}
