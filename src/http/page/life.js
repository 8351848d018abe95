// Lives and moments: the units of the service (humantime), and words for people.

const MINUTE = 60;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
// The service's month and year: 30.44 and 365.25 days.
const MONTH = 2_630_016;
const YEAR = 31_557_600;

/** @type {[number, string[]][]} */
const UNITS = [
  [1, ["seconds", "second", "secs", "sec", "s"]],
  [MINUTE, ["minutes", "minute", "mins", "min", "m"]],
  [HOUR, ["hours", "hour", "hrs", "hr", "h"]],
  [DAY, ["days", "day", "d"]],
  [7 * DAY, ["weeks", "week", "wks", "wk", "w"]],
  [MONTH, ["months", "month"]],
  [YEAR, ["years", "year", "yrs", "yr", "y"]],
];

/**
 * The seconds of a life such as `1h 30m`, or null: it is not one, or the service has to decide.
 * @param {string} text
 */
export function parseLife(text) {
  const trimmed = text.trim();
  if (!/^(\d{1,10}\s*[A-Za-z]+\s*)+$/.test(trimmed)) return null;
  let seconds = 0;
  for (const [, number, unit] of trimmed.matchAll(/(\d+)\s*([A-Za-z]+)/g)) {
    // A minute or a month: the service refuses it.
    const known = unit === "M" ? undefined : UNITS.find(([, names]) => names.includes(unit.toLowerCase()));
    if (!known) return null;
    seconds += Number(number) * known[0];
  }
  // 12 months are a year to the service.
  if (/^12\s*months?$/i.test(trimmed)) return YEAR;
  return seconds > 0 ? seconds : null;
}

/**
 * A duration in its two largest units: `5 h 12 min`.
 * @param {number} seconds
 */
export function inWords(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  /** @type {[number, string][]} */
  const units = [[YEAR, "y"], [DAY, "d"], [HOUR, "h"], [MINUTE, "min"], [1, "s"]];
  const first = units.findIndex(([size]) => whole >= size);
  if (first < 0) return "0 s";
  const [size, name] = units[first];
  const next = units[first + 1];
  const rest = next ? Math.floor((whole % size) / next[0]) : 0;
  return `${Math.floor(whole / size)} ${name}${next && rest ? ` ${rest} ${next[1]}` : ""}`;
}

const MOMENT = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const DATE = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });
const FULL_MOMENT = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });

/**
 * A moment in the person's own time zone.
 * @param {number} milliseconds since 1970
 */
export const moment = (milliseconds) => MOMENT.format(milliseconds);

/**
 * The day of a moment in the person's own time zone.
 * @param {number} milliseconds since 1970
 */
export const day = (milliseconds) => DATE.format(milliseconds);

/**
 * A moment with its weekday and time zone.
 * @param {number} milliseconds since 1970
 */
export const fullMoment = (milliseconds) => FULL_MOMENT.format(milliseconds);

/**
 * How long ago a moment was: `3 h ago`.
 * @param {number} milliseconds since 1970
 */
export function ago(milliseconds) {
  const seconds = (Date.now() - milliseconds) / 1000;
  return seconds < MINUTE ? "just now" : `${inWords(seconds).split(" ").slice(0, 2).join(" ")} ago`;
}

export { DAY, HOUR, MONTH, YEAR };
