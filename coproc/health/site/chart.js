// Charts over time, in SVG: lines, or areas on top of each other. A cursor, by pointer or arrow keys, reads values out.

import { h, s, setText } from "./dom.js";
import { clock } from "./format.js";

const HEIGHT = 168;
const MARGIN = { top: 8, right: 10, bottom: 22, left: 50 };

/** Steps of an axis from 0 that are easy to read; the last one is at least `most`. */
export function ticks(most, wanted = 4) {
  const rough = Math.max(most, 1e-9) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 2.5, 5, 10].find((nice) => nice * power >= rough * 0.999);
  const steps = Math.max(1, Math.ceil(most / step - 1e-6));
  return Array.from({ length: steps + 1 }, (_, number) => Number((number * step).toPrecision(6)));
}

/** Whole minutes or hours between two times, few enough to be written beside each other. */
export function moments(from, to, wanted) {
  const steps = [60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 14_400, 21_600, 43_200];
  const step = steps.find((seconds) => (to - from) / seconds <= wanted) ?? 86_400;
  const shift = new Date(1000 * from).getTimezoneOffset() * 60;
  const found = [];
  for (let at = Math.ceil((from - shift) / step) * step + shift; at <= to; at += step) found.push(at);
  return found;
}

/** Runs of known values, as pairs of first and last place. */
function runs(values) {
  const found = [];
  values.forEach((value, place) => {
    if (value === null || value === undefined) return;
    const last = found.at(-1);
    if (last !== undefined && last[1] === place - 1) last[1] = place;
    else found.push([place, place]);
  });
  return found;
}

export class TimeChart {
  /** `series` are {key, label, name} with a class name for the colour; `write` writes a value and `axis` one
   *  beside the axis, whose least top is `most`. */
  constructor(parent, { title, note, write, axis = write, stacked = false, most = 1 }) {
    this.write = write;
    this.axis = axis;
    this.stacked = stacked;
    this.most = most;
    this.title = title;
    this.place = null;
    this.data = { at: [], series: [], from: 0, to: 1 };
    this.readout = h("output", { class: "readout" });
    this.legend = h("ul", { class: "legend" });
    this.svg = s("svg", { class: "plot", role: "img", tabindex: "0", height: HEIGHT, focusable: "true" });
    this.element = h(
      "figure",
      { class: "card chart" },
      h("figcaption", {}, h("h3", {}, title, note ? h("small", {}, ` ${note}`) : null), this.readout),
      this.svg,
      this.legend,
    );
    parent.append(this.element);
    this.svg.addEventListener("pointermove", (event) => this.point(event.offsetX));
    this.svg.addEventListener("pointerleave", () => this.move(null));
    this.svg.addEventListener("blur", () => this.move(null));
    this.svg.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(this.svg);
  }

  /** Show series of {key, label, values}, all as long as `at`, between two times. */
  update(at, series, from, to) {
    this.data = { at, series, from, to };
    if (this.place !== null && this.place >= at.length) this.place = null;
    this.draw();
  }

  x(at) {
    const { from, to } = this.data;
    return MARGIN.left + ((at - from) / (to - from)) * (this.width - MARGIN.left - MARGIN.right);
  }

  y(value) {
    return HEIGHT - MARGIN.bottom - (value / this.top) * (HEIGHT - MARGIN.top - MARGIN.bottom);
  }

  draw() {
    this.width = this.svg.clientWidth;
    if (this.width < 80) return;
    const { at, series, from, to } = this.data;
    const tops = this.stack();
    const steps = ticks(Math.max(this.most, ...tops.flatMap((values) => values.filter((value) => value !== null))), 3);
    this.top = steps.at(-1);
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${HEIGHT}`);
    const grid = steps.map((value) =>
      s("g", { class: "tick" },
        s("line", { x1: MARGIN.left, x2: this.width - MARGIN.right, y1: this.y(value), y2: this.y(value) }),
        s("text", { x: MARGIN.left - 6, y: this.y(value) + 4, "text-anchor": "end" }, this.axis(value))));
    const times = moments(from, to, Math.floor(this.width / 84)).map((moment) =>
      s("text", { class: "time", x: Math.min(Math.max(this.x(moment), MARGIN.left), this.width - 22), y: HEIGHT - 6, "text-anchor": "middle" },
        clock(moment).slice(0, 5)));
    const shapes = series.flatMap((one, number) => this.shape(at, one, tops[number], tops[number - 1]));
    this.cursor = s("g", { class: "cursor" });
    this.svg.replaceChildren(...grid, ...times, ...shapes, this.cursor);
    this.describe();
  }

  /** Upper edges: the values themselves, or sums of them. */
  stack() {
    const { at, series } = this.data;
    if (!this.stacked) return series.map((one) => one.values);
    const sums = at.map(() => 0);
    return series.map((one) => one.values.map((value, place) => (value === null ? null : (sums[place] += value))));
  }

  shape(at, one, upper, below) {
    const shapes = [];
    for (const [first, last] of runs(upper)) {
      const places = Array.from({ length: last - first + 1 }, (_, number) => first + number);
      const line = places.map((place) => `${this.x(at[place]).toFixed(1)},${this.y(upper[place]).toFixed(1)}`);
      const floor = places.map((place) => {
        const value = this.stacked && below ? (below[place] ?? 0) : 0;
        return `${this.x(at[place]).toFixed(1)},${this.y(value).toFixed(1)}`;
      });
      shapes.push(s("polygon", { class: `area ${one.key}`, points: [...line, ...floor.reverse()].join(" ") }));
      shapes.push(s("polyline", { class: `line ${one.key}`, points: line.join(" ") }));
    }
    return shapes;
  }

  /** Say what is shown: at the cursor, or now. */
  describe() {
    const { at, series } = this.data;
    const place = this.place ?? at.length - 1;
    const values = series.map((one) => `${one.label} ${this.write(one.values[place] ?? null)}`);
    const entries = series.map((one) =>
      h("li", {}, h("span", { class: `swatch ${one.key}`, "aria-hidden": "true" }), `${one.label} `,
        h("b", {}, this.write(one.values[place] ?? null))));
    this.legend.replaceChildren(...entries);
    setText(this.readout, this.place === null || at.length === 0 ? "" : clock(at[place]));
    const known = series.flatMap((one) => one.values.filter((value) => value !== null));
    const highest = known.length ? `; highest ${this.write(Math.max(...known))}` : "";
    const summary = at.length ? `${this.title}: ${values.join(", ")}${highest}. Arrow keys read other times out.` : `${this.title}: no figures yet`;
    this.svg.setAttribute("aria-label", summary);
    if (this.place !== null && at.length) {
      const x = this.x(at[this.place]);
      const tops = this.stack();
      this.cursor.replaceChildren(
        s("line", { x1: x, x2: x, y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom }),
        ...series.flatMap((one, number) => {
          const value = tops[number][this.place];
          return value === null || value === undefined ? [] : [s("circle", { class: `mark ${one.key}`, cx: x, cy: this.y(value), r: 3.5 })];
        }),
      );
    } else this.cursor.replaceChildren();
  }

  point(offset) {
    const { at } = this.data;
    if (at.length === 0) return;
    let nearest = 0;
    at.forEach((moment, place) => {
      if (Math.abs(this.x(moment) - offset) < Math.abs(this.x(at[nearest]) - offset)) nearest = place;
    });
    this.move(nearest);
  }

  key(event) {
    const last = this.data.at.length - 1;
    if (last < 0) return;
    const place = this.place ?? last;
    const to = { ArrowLeft: place - 1, ArrowRight: place + 1, Home: 0, End: last, Escape: null }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.move(to === null ? null : Math.min(Math.max(to, 0), last));
    setText(this.readout, this.place === null ? "" : this.spoken());
  }

  /** What the cursor stands on, in one sentence. */
  spoken() {
    const { at, series } = this.data;
    return `${clock(at[this.place])}: ${series.map((one) => `${one.label} ${this.write(one.values[this.place] ?? null)}`).join(", ")}`;
  }

  move(place) {
    if (place === this.place) return;
    this.place = place;
    if (this.cursor) this.describe();
  }
}
