// What the overview shows besides charts: figures of now, and lists of parts, executors, callers, work and failures.

import { find, h, keyed, s, setText, table } from "./dom.js";
import { GLYPHS, NONE, STATES, ago, brief, count, duration, moment, operation, percent, plural, rate } from "./format.js";

export const link = (id, text) => h("a", { href: `#transaction/${id}`, title: id, class: "mono" }, text ?? brief(id));

/** A state as a word with a shape and a colour. */
export function chip(state, text = state) {
  return h("span", { class: `chip ${state}` }, h("span", { "aria-hidden": "true" }, GLYPHS[state] ?? "●"), text);
}

/** Figures of now, from the latest intervals. `latest` are sums over some seconds. */
export function showTiles(state, latest) {
  const { queue } = state.database;
  const open = (queue ?? []).reduce((sum, entry) => sum + entry.groups, 0);
  const cost = (queue ?? []).reduce((sum, entry) => sum + (entry.bootstraps ?? 0), 0);
  const oldest = Math.max(-1, ...(queue ?? []).map((entry) => entry.oldest ?? -1));
  const failures = (state.recent?.failures ?? []).filter((item) => item.asked === null || state.now - item.asked < 600);
  const many = failures.length >= 50 ? "+" : "";
  const computing = state.process.executors.length > 0;
  const running = state.process.executors.reduce((sum, executor) => sum + executor.running, 0);
  const slots = state.process.executors[0]?.slots ?? 0;
  const tiles = [
    ["Open work", queue === null ? NONE : count(open), queue === null ? "the database is away" : open === 0 ? "nothing waits" : `groups${cost ? ` · about ${count(cost)} bootstraps` : ""}`],
    ["Oldest", oldest < 0 ? NONE : duration(oldest), oldest < 0 ? "nothing waits" : "since it was asked for"],
    ["Results", rate(latest.results), "a second, all processes"],
    computing
      ? ["Bootstraps", rate(latest.computed), "a second, this process"]
      : ["Workers", state.database.workers === null ? NONE : count(state.database.workers.length), "hold work just now"],
    computing
      ? ["Occupancy", percent(latest.busy), `${running} of ${slots} job slots taken`]
      : ["This process", "no executor", `roles: ${state.process.roles.join(", ")}`],
    ["Failures", state.recent === null ? NONE : `${failures.length}${many}`, "of the last 10 minutes", failures.length ? "bad" : ""],
  ];
  const make = ([name]) => h("div", { class: "card tile" }, h("h3", {}, name), h("p", { class: "value" }), h("p", { class: "sub" }));
  keyed(find("tiles"), tiles, ([name]) => name, make, (element, [, value, sub, kind]) => {
    setText(element.children[1], value);
    setText(element.children[2], sub);
    element.children[1].className = `value ${kind ?? ""}`;
  });
}

/** Executors of this process with what they did lately, and whoever else holds work. */
export function showExecutors(state, latest) {
  const columns = [
    { name: "Executor", cell: (item) => item.name },
    { name: "Busy", cell: (item) => meter(latest.busyOf[item.name] ?? 0) },
    { name: "Jobs", number: true, cell: (item) => `${item.running} / ${item.slots}` },
    { name: "Bootstraps/s", number: true, cell: (item) => rate(latest.computedOf[item.name] ?? 0) },
    { name: "Lanes filled", number: true, cell: (item) => (item.lane_slots ? percent(item.bootstraps / item.lane_slots) : NONE) },
    { name: "A level", number: true, cell: (item) => (item.levels ? rate(item.bootstraps / item.levels) : NONE) },
    { name: "Done", number: true, cell: (item) => count(item.jobs) },
    { name: "Failed", number: true, cell: (item) => count(item.failures) },
  ];
  const none = `This process has no executor; its roles are ${state.process.roles.join(", ")}.`;
  table(find("executors"), "Executors of this process", columns, state.process.executors, (item) => item.name, none);
  const held = [
    { name: "Worker", cell: (item) => h("span", { class: "mono wrap" }, item.worker) },
    { name: "Groups", number: true, cell: (item) => count(item.groups) },
    { name: "Bootstraps", number: true, cell: (item) => count(item.bootstraps) },
    { name: "Lease", number: true, cell: (item) => lease(item.lease_seconds) },
  ];
  const away = state.database.workers === null ? "Not known: the database has not answered yet." : "No worker holds work just now.";
  table(find("workers"), "Workers that hold work", held, state.database.workers ?? [], (item) => item.worker, away);
}

function meter(share) {
  const shown = Math.min(1, share);
  const bar = s("svg", { class: "meter", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
    s("rect", { class: "rail", width: 100, height: 10 }), s("rect", { width: (100 * shown).toFixed(1), height: 10 }));
  return h("span", { class: "metered" }, bar, percent(shown));
}

function lease(seconds) {
  if (seconds === null) return NONE;
  return seconds >= 0 ? `${duration(Math.round(seconds))} left` : h("span", { class: "bad" }, `over for ${duration(-seconds)}`);
}

/** Actors, and dependencies behind their breakers; what does not do what it is there for comes first. */
export function showParts(state) {
  const { actors, breakers } = state.process;
  const { error, seconds } = state.database;
  const guarded = new Set(breakers.map((breaker) => breaker.name));
  const answers = error !== null ? "cannot be seen" : seconds === null ? "not asked yet" : `answers in ${duration(seconds)}`;
  const parts = breakers.map((breaker) => ({
    kind: "dependency",
    name: breaker.name,
    good: breaker.state === "closed",
    state: [
      breaker.name === "database" ? answers : null,
      `breaker ${breaker.state.replace("_", " ")}`,
      breaker.failures ? plural(breaker.failures, "failure") : null,
      breaker.retry_seconds ? `asked again in ${duration(breaker.retry_seconds)}` : null,
    ].filter(Boolean).join(" · "),
    error: breaker.error,
  }));
  if (!guarded.has("database")) parts.push({ kind: "dependency", name: "database", good: error === null, state: answers, error });
  for (const actor of actors) {
    if (guarded.has(actor.name)) continue;
    const restarts = actor.restarts ? ` · ${plural(actor.restarts, "restart")}` : "";
    parts.push({ kind: "actor", name: actor.name, good: actor.healthy, state: actor.state + restarts, error: actor.error });
  }
  parts.sort((one, other) => Number(one.good) - Number(other.good));
  const make = () =>
    h("li", {}, h("span", { class: "sign", "aria-hidden": "true" }), h("span", { class: "name" }, h("span", {}), " ", h("span", { class: "kind" })), h("span", { class: "how" }), h("span", { class: "error" }));
  keyed(find("parts"), parts, (part) => `${part.kind} ${part.name}`, make, (element, part) => {
    element.className = part.good ? "good" : "bad";
    const [sign, name, how, why] = element.children;
    setText(sign, part.good ? "✓" : "!");
    setText(name.firstChild, part.name);
    setText(name.lastChild, part.kind);
    setText(how, part.state);
    setText(why, part.error ?? "");
  });
}

/** Open work by caller: one row each, one column a state. */
export function showQueue(state) {
  const callers = new Map();
  for (const entry of state.database.queue ?? []) {
    const name = entry.tenant ?? "";
    const row = callers.get(name) ?? { name, groups: {}, bootstraps: null, oldest: null };
    row.groups[entry.state] = entry.groups;
    if (entry.bootstraps !== null) row.bootstraps = (row.bootstraps ?? 0) + entry.bootstraps;
    if (entry.oldest !== null) row.oldest = Math.max(row.oldest ?? 0, entry.oldest);
    callers.set(name, row);
  }
  const groups = (name) => ({ name: name[0].toUpperCase() + name.slice(1), number: true, cell: (item) => count(item.groups[name] ?? 0) });
  const columns = [
    { name: "Caller", cell: (item) => (item.name ? h("span", { class: "wrap" }, item.name) : h("i", {}, "without a name")) },
    groups("computing"),
    groups("ready"),
    groups("waiting"),
    { name: "Bootstraps", number: true, cell: (item) => count(item.bootstraps) },
    { name: "Oldest", number: true, cell: (item) => duration(item.oldest) },
  ];
  const empty = state.database.queue === null ? "Not known: the database has not answered yet." : "Nothing waits.";
  table(find("queue"), "Open groups by caller", columns, [...callers.values()], (item) => item.name, empty);
}

/** Transactions, newest first. */
export function showTransactions(state) {
  const columns = [
    { name: "Transaction", cell: (item) => link(item.id) },
    { name: "Caller", cell: (item) => (item.tenant === null ? NONE : h("span", { class: "wrap" }, item.tenant)) },
    { name: "Asked", number: true, cell: (item) => (item.asked === null ? NONE : h("time", { title: moment(item.asked) }, ago(item.asked, state.now))) },
    { name: "Steps", number: true, cell: (item) => count(item.computations) },
    { name: "Groups", cell: (item) => h("span", { class: "chips" }, STATES.filter((name) => item.groups[name]).map((name) => chip(name, `${item.groups[name]} ${name}`))) },
  ];
  const empty = state.recent === null ? "Not known: the database does not answer." : "Nobody has asked for anything yet.";
  table(find("transactions"), "Recent transactions", columns, state.recent?.transactions ?? [], (item) => item.id, empty);
}

/** Failures, newest first; equal reasons that follow each other are counted, not repeated. */
export function showFailures(state) {
  const shown = [];
  for (const item of state.recent?.failures ?? []) {
    const before = shown.at(-1);
    const isSame = before !== undefined && before.transaction === item.transaction && before.failure.rule === item.failure.rule && before.failure.message === item.failure.message;
    if (isSame) before.more += 1;
    else shown.push({ ...item, more: 0 });
  }
  const items = shown.length ? shown : [null];
  const make = (item) =>
    item === null
      ? h("li", { class: "nothing" })
      : h("li", {}, h("p", { class: "reason" }, h("strong", {}, item.failure.rule), " ", h("span", {}, item.failure.message)), h("p", { class: "about" }, `${operation(item.operation)} of `, link(item.transaction), h("span", {}), h("span", {})));
  keyed(find("failures"), items, (item) => (item === null ? "none" : item.handle + item.transaction), make, (element, item) => {
    if (item === null) {
      setText(element, state.recent === null ? "Not known: the database does not answer." : "Nothing has failed lately.");
      return;
    }
    const [, more, when] = element.lastElementChild.children;
    setText(more, item.more ? ` and ${plural(item.more, "other")}` : "");
    setText(when, item.asked === null ? "" : ` · asked ${ago(item.asked, state.now)}`);
  });
}
