// How numbers, times and identifiers are written.

const NUMBER = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const MOMENT = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit" });

export const NONE = "–";
export const STATES = ["computing", "ready", "waiting", "completed", "failed"];
/** A shape for each state, so that nothing depends on colour alone. */
export const GLYPHS = { waiting: "◌", ready: "○", computing: "◐", completed: "✓", failed: "✕" };

/** 1234567 as 1.23 M, small numbers in full. */
export function count(value) {
  if (value === null || value === undefined) return NONE;
  const size = Math.abs(value);
  if (size < 10_000) return NUMBER.format(value);
  const [unit, by] = size < 1e6 ? ["k", 1e3] : size < 1e9 ? ["M", 1e6] : ["G", 1e9];
  const scaled = value / by;
  return `${scaled.toFixed(Math.abs(scaled) < 100 ? 1 : 0)} ${unit}`;
}

/** A rate or other number that may be small. */
export function rate(value) {
  if (value === null || value === undefined) return NONE;
  if (value === 0) return "0";
  return value < 10 ? value.toFixed(value < 0.1 ? 2 : 1) : count(value);
}

export const percent = (share) => (share === null || share === undefined ? NONE : `${Math.round(100 * share)} %`);

/** 0.0123 s as 12 ms, 75 s as 1 min 15 s, and so on. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  if (seconds < 0) return `-${duration(-seconds)}`;
  if (seconds === 0) return "0 s";
  if (seconds < 0.9995) return `${Math.round(1000 * seconds)} ms`;
  if (seconds < 59.5) return `${seconds.toFixed(seconds < 9.95 ? 1 : 0).replace(/\.0$/, "")} s`;
  const whole = Math.round(seconds);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86_400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86_400)} d ${Math.floor((whole % 86_400) / 3600)} h`;
}

/** A duration for an axis: one unit, few characters. */
export function axisDuration(seconds) {
  if (seconds < 1 && seconds > 0) return duration(seconds);
  const [unit, by] = seconds < 120 ? ["s", 1] : seconds < 7200 ? ["min", 60] : seconds < 172_800 ? ["h", 3600] : ["d", 86_400];
  return `${Number((seconds / by).toFixed(1))} ${unit}`;
}

export const ago = (at, now) => (at === null || at === undefined ? NONE : `${duration(Math.max(0, now - at))} ago`);
export const clock = (at) => CLOCK.format(1000 * at);
export const moment = (at) => (at === null || at === undefined ? NONE : MOMENT.format(1000 * at));

/** The two ends of a long identifier. */
export const brief = (id, ends = 6) => (id.length <= 2 * ends + 1 ? id : `${id.slice(0, ends)}…${id.slice(-ends)}`);

export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

/** if_then_else from IF_THEN_ELSE. */
export const operation = (name) => name.toLowerCase();
