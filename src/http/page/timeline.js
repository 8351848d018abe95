// What expires when, as a picture.

import { drawing, element } from "./dom.js";
import { DAY, HOUR, MONTH, YEAR } from "./life.js";

/** The spans that one can look at: length and width of a bar, in seconds, and the words for both. */
const SPANS = [
  { name: "Day", seconds: DAY, bar: HOUR, words: "the next 24 hours", step: 6 },
  { name: "Week", seconds: 7 * DAY, bar: DAY / 4, words: "the next 7 days", step: 4 },
  { name: "Month", seconds: 30 * DAY, bar: DAY, words: "the next 30 days", step: 7 },
  { name: "Year", seconds: YEAR, bar: MONTH, words: "the next year", step: 3 },
];

/** Pixels. The width is that of the page. */
const HEIGHT = 120;
const BASELINE = 96;
const LABEL_WIDTH = 64;

/**
 * Whether a token was not used for 30 days, or never.
 * @param {import("./api.js").Token} token
 */
export const isUnused = (token) => token.lastUsed === null || Date.now() - token.lastUsed > 30 * DAY * 1000;

/** The picture, with a choice of spans. */
export class Timeline {
  constructor() {
    this.span = SPANS[2];
    /** @type {import("./api.js").Token[]} */
    this.tokens = [];
    this.picture = element("div", { class: "picture" });
    this.summary = element("p", { class: "hint" });
    new ResizeObserver(() => this.draw()).observe(this.picture);
    const choices = SPANS.map((span) => {
      const input = element("input", { type: "radio", name: "span", checked: span === this.span });
      input.addEventListener("change", () => { this.span = span; this.draw(); });
      return element("label", {}, input, element("span", {}, span.name));
    });
    this.root = element(
      "section",
      { class: "card timeline", "aria-labelledby": "timeline-title" },
      element(
        "div",
        { class: "bar" },
        element("h2", { id: "timeline-title" }, "Expiring"),
        element("fieldset", { class: "choices" }, element("legend", { class: "hidden" }, "Span"), ...choices),
      ),
      this.picture,
      this.summary,
      element("p", { class: "hint legend" },
        element("span", {}, element("span", { class: "swatch used" }), "in use"),
        element("span", {}, element("span", { class: "swatch unused" }), "never used, or not for 30 days")),
    );
  }

  /** @param {import("./api.js").Token[]} tokens */
  update(tokens) {
    this.tokens = tokens;
    this.draw();
  }

  draw() {
    const { seconds, bar, words, step } = this.span;
    const fullWidth = this.picture.clientWidth || 720;
    const now = Date.now();
    const count = Math.ceil(seconds / bar);
    const bars = Array.from({ length: count }, () => ({ used: 0, unused: 0, names: /** @type {string[]} */ ([]) }));
    for (const token of this.tokens) {
      const place = bars[Math.floor((token.expires - now) / 1000 / bar)];
      if (!place) continue;
      place[isUnused(token) ? "unused" : "used"] += 1;
      place.names.push(token.description);
    }
    const highest = Math.max(1, ...bars.map(({ used, unused }) => used + unused));
    const width = fullWidth / count;
    // A mark at each step, or fewer where they would overlap.
    const spacing = step * Math.max(1, Math.ceil(LABEL_WIDTH / (width * step)));
    const scale = (BASELINE - 16) / highest;
    const shapes = bars.flatMap(({ used, unused, names }, index) => {
      if (!names.length) return [];
      const [x, y] = [index * width + 1, BASELINE - (used + unused) * scale];
      const title = drawing("title", {}, names.slice(0, 12).join("\n") + (names.length > 12 ? `\n… and ${names.length - 12} more` : ""));
      return [drawing(
        "g",
        {},
        title,
        drawing("rect", { class: "used", x, y: BASELINE - used * scale, width: width - 2, height: used * scale, rx: 2 }),
        drawing("rect", { class: "unused", x, y, width: width - 2, height: unused * scale, rx: 2 }),
        drawing("text", { class: "count", x: x + width / 2 - 1, y: y - 4 }, String(used + unused)),
      )];
    });
    const format = new Intl.DateTimeFormat(undefined, seconds <= DAY ? { hour: "numeric", minute: "2-digit" }
      : seconds <= 7 * DAY ? { weekday: "short", day: "numeric" } : seconds <= MONTH ? { day: "numeric", month: "short" }
      : { month: "short", year: "numeric" });
    const marks = bars.flatMap((_, index) => (index % spacing ? [] : [
      drawing("line", { x1: index * width, x2: index * width, y1: BASELINE, y2: BASELINE + 5 }),
      // The last label is left out where it would be cut off.
      index * width + LABEL_WIDTH <= fullWidth && drawing("text", { x: index * width + 3, y: BASELINE + 18 }, format.format(now + index * bar * 1000)),
    ]));
    const sum = (/** @type {"used" | "unused"} */ kind) => bars.reduce((total, one) => total + one[kind], 0);
    const [used, unused] = [sum("used"), sum("unused")];
    const text = used + unused === 0 ? `Nothing expires in ${words}.`
      : `${used + unused} ${used + unused === 1 ? "token expires" : "tokens expire"} in ${words}` +
        (!unused ? "." : used + unused === 1 ? ", unused." : `, ${used ? unused : "all"} of them unused.`);
    this.summary.textContent = text;
    this.picture.replaceChildren(drawing(
      "svg",
      { viewBox: `0 0 ${fullWidth} ${HEIGHT}`, height: HEIGHT, role: "img", "aria-label": text },
      drawing("line", { x1: 0, x2: fullWidth, y1: BASELINE, y2: BASELINE }),
      ...marks,
      ...shapes,
    ));
  }
}
