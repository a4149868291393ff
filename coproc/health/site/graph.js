// One transaction drawn as a graph: levels beside each other (on phones: below each other), values flow along the lines.

import { h, s, setText } from "./dom.js";
import { GLYPHS, brief, duration, operation } from "./format.js";
import { arrange } from "./layout.js";

const WIDE = { node: { width: 160, height: 50 }, gap: { along: 56, across: 16 } };
const NARROW = { node: { width: 150, height: 48 }, gap: { along: 40, across: 12 } };
const MARGIN = 30;
const ZOOMS = [0.25, 0.4, 0.55, 0.75, 1, 1.35];
const LEAST_FIT = 0.72; // smaller, and nobody can read it

/** A drawing whose nodes can be walked through with arrow keys; `choose` is called with the id of the chosen one. */
export class Graph {
  constructor(parent, choose) {
    this.choose = choose;
    this.zoom = null; // null: as large as fits, up to its natural size
    this.chosen = null;
    this.items = new Map();
    this.svg = s("svg", { class: "graph", role: "group", "aria-label": "Computations and the values between them" });
    this.scroller = h("div", { class: "scroller", tabindex: "-1" }, this.svg);
    const button = (text, label, act) => h("button", { type: "button", class: "quiet", "aria-label": label, onclick: act }, text);
    parent.append(
      h("div", { class: "heading" },
        h("h2", {}, "Graph"),
        h("div", { class: "zoom", role: "group", "aria-label": "Size of the drawing" },
          button("−", "Smaller", () => this.step(-1)),
          button("Fit", "Fit to the width", () => this.resize(null)),
          button("+", "Larger", () => this.step(1)))),
      this.scroller);
    this.svg.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.fit()).observe(this.scroller);
  }

  /** Show a transaction as the service tells of it. */
  update(transaction) {
    const shown = transaction.nodes.map((node) => [node.handle, node.state, node.inputs]);
    const narrow = this.scroller.clientWidth > 0 && this.scroller.clientWidth < 620;
    const mark = JSON.stringify([shown, transaction.inputs, narrow]);
    this.transaction = transaction;
    if (mark !== this.mark) {
      this.mark = mark;
      this.isDown = narrow;
      this.form = narrow ? NARROW : WIDE;
      this.draw();
    }
    for (const node of transaction.nodes) this.retell(node);
  }

  draw() {
    const { nodes, inputs } = this.transaction;
    const { node: NODE, gap: GAP } = this.form;
    // What reads nothing is drawn just before what reads it first: its line is short.
    const read = new Map();
    for (const node of nodes) for (const id of node.inputs) read.set(id, Math.min(read.get(id) ?? Infinity, node.level - 1));
    const late = (id, level) => Math.max(level, Number.isFinite(read.get(id)) ? read.get(id) : level);
    const outside = inputs.map((input) => ({ id: input.handle, level: late(input.handle, 0), inputs: [], input }));
    const inside = nodes.map((node) => ({ id: node.handle, level: node.inputs.length ? node.level : late(node.handle, node.level), inputs: node.inputs, node }));
    const all = [...outside, ...inside];
    const plan = arrange(all);
    const along = (this.isDown ? NODE.height : NODE.width) + GAP.along;
    const across = (this.isDown ? NODE.width : NODE.height) + GAP.across;
    const point = (place) => ({ along: MARGIN + place.along * along, across: MARGIN + place.across * across });
    const xy = ({ along: a, across: b }) => (this.isDown ? { x: b, y: a } : { x: a, y: b });
    const lines = plan.edges.map((edge) => {
      const start = point(plan.nodes.get(edge.from));
      const end = point(plan.nodes.get(edge.to));
      const depth = this.isDown ? NODE.height : NODE.width;
      const middle = (this.isDown ? NODE.width : NODE.height) / 2;
      const stops = [
        { along: start.along + depth, across: start.across + middle },
        ...edge.bends.flatMap((bend) => [point(bend), { ...point(bend), along: point(bend).along + depth }].map((stop) => ({ ...stop, across: stop.across + middle }))),
        { along: end.along - 7, across: end.across + middle },
      ];
      return s("path", { class: "edge", d: curve(stops, xy), "marker-end": "url(#arrow)", "data-from": edge.from, "data-to": edge.to });
    });
    this.items.clear();
    const boxes = all.map((item) => {
      const { x, y } = xy(point(plan.nodes.get(item.id)));
      const element = item.node ? this.box(item.node, x, y) : this.source(item.input, x, y);
      this.items.set(item.id, { ...item, element, ...plan.nodes.get(item.id) });
      return element;
    });
    const heads = Array.from({ length: plan.levels }, (_, level) => {
      const used = all.some((item) => item.level === level && (item.node || level === 0));
      const { x, y } = xy({ along: MARGIN + level * along, across: 0 });
      const at = this.isDown ? { x: 6, y: y - 8 } : { x: x + NODE.width / 2, y: 16, "text-anchor": "middle" };
      return used ? s("text", { class: "level", ...at }, level === 0 ? "from outside" : `level ${level}`) : null;
    });
    const size = xy({ along: 2 * MARGIN + plan.levels * along - GAP.along, across: 2 * MARGIN + plan.extent * across - GAP.across });
    this.size = { width: Math.max(size.x, 220), height: size.y };
    const arrow = s("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 3, refY: 4, markerWidth: 9, markerHeight: 9, markerUnits: "userSpaceOnUse", orient: "auto" }, s("path", { d: "M0 0L8 4L0 8z" }));
    this.svg.replaceChildren(s("defs", {}, arrow), ...heads.filter(Boolean), s("g", {}, lines), s("g", {}, boxes));
    this.svg.setAttribute("viewBox", `0 0 ${this.size.width} ${this.size.height}`);
    if (!this.items.has(this.chosen)) this.chosen = null;
    this.rove(this.chosen ?? nodes[0]?.handle);
    this.highlight();
    this.fit();
  }

  box(node, x, y) {
    const NODE = this.form.node;
    const element = s("g", { class: `node ${node.state}`, transform: `translate(${x} ${y})`, role: "button", tabindex: "-1", "data-id": node.handle },
      s("rect", { class: "body", width: NODE.width, height: NODE.height, rx: 7 }),
      s("rect", { class: "strip", width: 5, height: NODE.height - 14, x: 6, y: 7, rx: 2.5 }),
      s("text", { class: "what", x: 19, y: 21 }, operation(node.operation)),
      s("text", { class: "type", x: 19, y: 39 }, node.type),
      s("text", { class: "glyph", x: NODE.width - 11, y: 21, "text-anchor": "end", "aria-hidden": "true" }, GLYPHS[node.state]),
      s("text", { class: "time", x: NODE.width - 10, y: 39, "text-anchor": "end" }));
    if (node.allowed) element.prepend(s("rect", { class: "halo", x: -3, y: -3, width: NODE.width + 6, height: NODE.height + 6, rx: 10 }));
    element.addEventListener("click", () => this.pick(node.handle));
    return element;
  }

  source(input, x, y) {
    const NODE = this.form.node;
    const element = s("g", { class: `node source ${input.stored ? "stored" : "missing"}`, transform: `translate(${x} ${y})`, role: "button", tabindex: "-1", "data-id": input.handle,
      "aria-label": `value from outside ${brief(input.handle)}, ${input.type}, ${input.stored ? "stored" : "not here yet"}` },
      s("rect", { class: "body", width: NODE.width, height: NODE.height - 12, y: 6, rx: 19 }),
      s("text", { class: "what mono", x: 16, y: 23 }, brief(input.handle, 4)),
      s("text", { class: "type", x: 16, y: 36 }, `${input.type}${input.stored ? "" : " · missing"}`));
    element.addEventListener("click", () => this.pick(input.handle));
    return element;
  }

  /** Bring times and the spoken label of a node up to date. */
  retell(node) {
    const element = this.items.get(node.handle)?.element;
    if (element === undefined) return;
    const seconds = node.asked === null || node.ended === null ? null : node.ended - node.asked;
    setText(element.querySelector(".time"), seconds === null ? "" : duration(seconds));
    const label = `${operation(node.operation)}, ${node.type}, level ${node.level}, ${node.state}${node.allowed ? ", result" : ""}${seconds === null ? "" : `, after ${duration(seconds)}`}`;
    element.setAttribute("aria-label", label);
  }

  pick(id) {
    this.chosen = this.chosen === id ? null : id;
    this.rove(id);
    this.items.get(id)?.element.focus();
    this.highlight();
    this.choose(this.chosen);
  }

  /** Only one node is a stop of the tab key; arrow keys go on from there. */
  rove(id) {
    for (const [other, item] of this.items) item.element.setAttribute("tabindex", other === id ? "0" : "-1");
  }

  /** Show what the chosen node rests on, and what rests on it. */
  highlight() {
    const near = new Set();
    if (this.chosen !== null) {
      const follow = (id, next) => {
        for (const other of next(id)) if (!near.has(other)) { near.add(other); follow(other, next); }
      };
      const inputs = new Map([...this.items].map(([id, item]) => [id, item.inputs]));
      const readers = new Map();
      for (const [id, list] of inputs) for (const input of list) readers.set(input, [...(readers.get(input) ?? []), id]);
      follow(this.chosen, (id) => inputs.get(id) ?? []);
      follow(this.chosen, (id) => readers.get(id) ?? []);
      near.add(this.chosen);
    }
    this.svg.classList.toggle("focused", near.size > 0);
    for (const [id, item] of this.items) {
      item.element.classList.toggle("near", near.has(id));
      item.element.classList.toggle("chosen", id === this.chosen);
      item.element.setAttribute("aria-pressed", String(id === this.chosen));
    }
    for (const line of this.svg.querySelectorAll(".edge"))
      line.classList.toggle("near", near.has(line.dataset.from) && near.has(line.dataset.to));
  }

  key(event) {
    const id = event.target.dataset?.id;
    const item = this.items.get(id);
    if (item === undefined) return;
    if (event.key === "Enter" || event.key === " ") this.pick(id);
    else if (event.key === "Escape" && this.chosen !== null) this.pick(this.chosen);
    else {
      const way = this.isDown ? { ArrowUp: "back", ArrowDown: "on", ArrowLeft: -1, ArrowRight: 1 } : { ArrowLeft: "back", ArrowRight: "on", ArrowUp: -1, ArrowDown: 1 };
      const to = this.next(item, way[event.key]);
      if (way[event.key] === undefined) return;
      if (to !== undefined) {
        this.rove(to.id);
        to.element.focus();
        to.element.scrollIntoView({ block: "nearest", inline: "nearest" });
      }
    }
    event.preventDefault();
  }

  /** The node before or behind another along a line, or beside it on its level. */
  next(item, way) {
    const all = [...this.items.values()];
    const away = (other) => Math.abs(other.across - item.across) + (other.node ? 0 : 1e6); // computations before values from outside
    const near = (some) => some.sort((one, other) => away(one) - away(other))[0];
    if (way === "back") return near(item.inputs.map((id) => this.items.get(id)).filter(Boolean));
    if (way === "on") return near(all.filter((other) => other.inputs.includes(item.id)));
    if (way === undefined) return undefined;
    return near(all.filter((other) => other.level === item.level && Math.sign(other.across - item.across) === way));
  }

  resize(zoom) {
    this.zoom = zoom;
    this.fit();
  }

  step(by) {
    const now = this.scale();
    const steps = by > 0 ? ZOOMS.filter((zoom) => zoom > now + 0.01) : ZOOMS.filter((zoom) => zoom < now - 0.01);
    this.resize((by > 0 ? steps[0] : steps.at(-1)) ?? now);
  }

  scale() {
    return this.zoom ?? Math.min(1, Math.max(LEAST_FIT, (this.scroller.clientWidth - 2) / (this.size?.width ?? 1)));
  }

  fit() {
    if (this.size === undefined) return;
    this.svg.setAttribute("width", Math.round(this.size.width * this.scale()));
    this.svg.setAttribute("height", Math.round(this.size.height * this.scale()));
  }
}

/** A smooth line through stops that leaves and arrives along the levels. */
function curve(stops, xy) {
  const at = (stop) => { const { x, y } = xy(stop); return `${x.toFixed(1)} ${y.toFixed(1)}`; };
  return stops.slice(1).reduce((path, stop, number) => {
    const before = stops[number];
    const half = (before.along + stop.along) / 2;
    return `${path}C${at({ along: half, across: before.across })} ${at({ along: half, across: stop.across })} ${at(stop)}`;
  }, `M${at(stops[0])}`);
}
