// The view of one transaction: facts, the graph, what is chosen in it, and the same as a table.

import { h, keyed, setText, table } from "./dom.js";
import { NONE, STATES, ago, brief, duration, moment, operation, plural } from "./format.js";
import { Graph } from "./graph.js";
import { chip } from "./panels.js";

export class TransactionView {
  constructor(parent, id) {
    this.id = id;
    this.chosen = null;
    this.title = h("h1", { tabindex: "-1" }, "Transaction ", h("span", { class: "mono wrap" }, id));
    this.problem = h("p", { class: "banner", role: "status" });
    this.facts = h("dl", { class: "facts" });
    this.graphBox = h("section", { class: "card", "aria-label": "Graph" });
    this.detail = h("section", { class: "card detail", "aria-live": "polite", "aria-label": "Chosen computation" });
    this.rows = h("div", {});
    this.list = h("section", { class: "card", "aria-labelledby": "steps-title" }, h("h2", { id: "steps-title" }, "Computations"), this.rows);
    this.content = h("div", { class: "content" }, this.facts, this.graphBox, this.detail, this.list);
    parent.replaceChildren(h("p", {}, h("a", { href: "#" }, "← Overview")), this.title, this.problem, this.content);
    this.content.hidden = true;
    this.problem.hidden = true;
    this.graph = new Graph(this.graphBox, (chosen) => { this.chosen = chosen; this.showDetail(); });
    this.graphBox.append(h("ul", { class: "legend" },
      STATES.map((state) => h("li", {}, chip(state))),
      h("li", {}, h("span", { class: "swatch halo", "aria-hidden": "true" }), "result that callers may read")));
  }

  fail(message) {
    this.problem.hidden = false;
    setText(this.problem, message);
  }

  /** Whether everything has ended, so that nothing will change any more. */
  get isOver() {
    return this.transaction !== undefined && this.transaction.nodes.every((node) => node.state === "completed" || node.state === "failed");
  }

  update(transaction) {
    this.transaction = transaction;
    // Values that nobody may read are not stored: they were done when their group was.
    const ends = new Map();
    for (const { group, stored } of transaction.nodes) if (stored !== null) ends.set(group, Math.max(ends.get(group) ?? 0, stored));
    for (const node of transaction.nodes) node.ended = node.stored ?? (node.state === "completed" ? ends.get(node.group) ?? null : null);
    this.content.hidden = false;
    this.problem.hidden = transaction.total <= transaction.nodes.length;
    if (!this.problem.hidden) setText(this.problem, `Only the first ${transaction.nodes.length} of ${transaction.total} computations are shown.`);
    this.graph.update(transaction);
    this.showFacts();
    this.showDetail();
    this.showRows();
  }

  showFacts() {
    const { nodes, inputs, total, now } = this.transaction;
    const asked = nodes.map((node) => node.asked).filter((at) => at !== null);
    const ends = nodes.map((node) => node.ended).filter((at) => at !== null);
    const first = asked.length ? Math.min(...asked) : null;
    const last = ends.length ? Math.max(...ends) : null;
    const states = STATES.filter((state) => nodes.some((node) => node.state === state));
    const missing = inputs.filter((input) => !input.stored).length;
    const took = first === null ? NONE : this.isOver && last !== null ? duration(last - first) : `${duration(now - first)} so far`;
    const facts = [
      ["State", h("span", { class: "chips" }, states.map((state) => chip(state, `${nodes.filter((node) => node.state === state).length} ${state}`)))],
      ["Asked", first === null ? NONE : `${moment(first)} (${ago(first, now)})`],
      ["Took", took],
      ["Size", `${plural(total, "computation")} on ${plural(Math.max(0, ...nodes.map((node) => node.level)), "level")}`],
      ["From outside", `${plural(inputs.length, "value")}${missing ? `, ${missing} missing` : ""}`],
    ];
    const make = () => h("div", {}, h("dt"), h("dd"));
    keyed(this.facts, facts, ([name]) => name, make, (element, [name, value]) => {
      setText(element.firstChild, name);
      const mark = typeof value === "string" ? value : value.outerHTML;
      if (element.dataset.mark !== mark) {
        element.dataset.mark = mark;
        element.lastChild.replaceChildren(value);
      }
    });
  }

  showDetail() {
    const { nodes, inputs, now } = this.transaction;
    const node = nodes.find((one) => one.handle === this.chosen);
    const input = inputs.find((one) => one.handle === this.chosen);
    let shown = [["", "Choose a computation in the graph, with the pointer or with arrow keys and Enter."]];
    if (input) shown = [["Value from outside", input.handle], ["Type", input.type], ["State", input.stored ? "stored" : "not here yet: what reads it waits"]];
    if (node) {
      shown = [
        ["Computation", `${operation(node.operation)}, ${node.type}, level ${node.level}`],
        ["Handle", node.handle],
        ["State", `${node.state}${node.attempts > 1 ? `, attempt ${node.attempts}` : ""}${node.worker ? `, by ${node.worker}` : ""}`],
        ["Timing", timing(node, now)],
        ["Reads", node.inputs.map((id) => this.call(id)).join(", ") || "nothing encrypted"],
        ["Kept", node.allowed ? "callers may read it" : "an intermediate value, not for callers"],
      ];
      if (node.failure) {
        shown.push(["Reason", `${node.failure.rule}: ${node.failure.message}`]);
        if (node.failure.cause) shown.push(["Follows from", node.failure.cause]);
      }
    }
    const mark = JSON.stringify(shown);
    if (this.detail.dataset.mark === mark) return;
    this.detail.dataset.mark = mark;
    const list = shown.map(([name, value]) => h("div", {}, name ? h("dt", {}, name) : null, h("dd", { class: "wrap" }, value)));
    this.detail.replaceChildren(h("dl", { class: "facts" }, list));
  }

  /** Call a value by what makes it. */
  call(handle) {
    const node = this.transaction.nodes.find((one) => one.handle === handle);
    return node ? `${operation(node.operation)} ${brief(handle, 4)}` : brief(handle, 4);
  }

  showRows() {
    const { nodes, now } = this.transaction;
    const columns = [
      { name: "Level", number: true, cell: (node) => String(node.level) },
      { name: "Operation", cell: (node) => operation(node.operation) },
      { name: "Type", cell: (node) => node.type },
      { name: "State", cell: (node) => chip(node.state) },
      { name: "Timing", cell: (node) => timing(node, now) },
      { name: "Handle", cell: (node) => h("span", { class: "mono", title: node.handle }, brief(node.handle)) },
      { name: "Reads", cell: (node) => h("span", { class: "mono" }, node.inputs.map((id) => brief(id, 4)).join(" ") || NONE) },
      { name: "Reason", cell: (node) => (node.failure ? h("span", { class: "wrap" }, `${node.failure.rule}: ${node.failure.message}`) : "") },
    ];
    table(this.rows, "Computations of this transaction", columns, nodes, (node) => node.handle, "It has none.");
  }
}

/** How long a computation took from when it was asked for, as far as that is known. */
function timing(node, now) {
  if (node.asked === null) return NONE;
  if (node.ended !== null) return `done after ${duration(node.ended - node.asked)}`;
  return node.state === "completed" || node.state === "failed" ? NONE : `asked ${ago(node.asked, now)}`;
}
