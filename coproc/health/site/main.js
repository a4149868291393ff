// The page itself: asks the service every two seconds, and shows the overview or one transaction by the address's hash.

import { TimeChart } from "./chart.js";
import { find, h, keyed, setText } from "./dom.js";
import { axisDuration, clock, count, duration, percent, rate } from "./format.js";
import { showExecutors, showFailures, showParts, showQueue, showTiles, showTransactions } from "./panels.js";
import { TransactionView } from "./transaction.js";

const PERIOD = 2000;
const PATIENCE = 8000;
const SPANS = { short: 600, long: 86_400 };
const LATEST_SECONDS = 10;

const history = { span: "short", since: null, at: [], columns: {} };
const page = { state: null, view: null, paused: false, lost: null, timer: null, asking: false };

const CHARTS = {
  queue: new TimeChart(find("charts"), { title: "Open groups", note: "all processes", write: count, stacked: true }),
  results: new TimeChart(find("charts"), { title: "Results a second", note: "all processes", write: rate }),
  oldest: new TimeChart(find("charts"), { title: "Age of the oldest work", note: "all processes", write: duration, axis: axisDuration }),
  computed: new TimeChart(find("charts"), { title: "Bootstraps a second", note: "this process", write: rate, most: 10 }),
  busy: new TimeChart(find("charts"), { title: "Occupancy", note: "this process", write: percent, most: 1 }),
  lag: new TimeChart(find("charts"), { title: "Event loop late by", note: "this process", write: duration, axis: axisDuration, most: 0.02 }),
};

async function ask(path) {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
  const body = await answer.json().catch(() => ({ error: `the service answered ${answer.status}` }));
  if (!answer.ok) throw Object.assign(new Error(body.error ?? `the service answered ${answer.status}`), { status: answer.status });
  return body;
}

/** Append what is new, and forget what has left the window or came from a process before. */
function remember(state) {
  const { span, at, ...columns } = state.history;
  if (span !== history.span) return;
  if (history.since !== state.process.since) Object.assign(history, { since: state.process.since, at: [], columns: {} });
  const last = history.at.at(-1) ?? -Infinity;
  const fresh = at.map((moment, place) => (moment > last ? place : -1)).filter((place) => place >= 0);
  const before = history.at.length;
  history.at.push(...fresh.map((place) => at[place]));
  for (const [name, column] of Object.entries(columns)) {
    if (Array.isArray(column)) grow(history.columns, name, before, fresh.map((place) => column[place]));
    else {
      history.columns[name] ??= {};
      const names = new Set([...Object.keys(history.columns[name]), ...Object.keys(column)]);
      for (const part of names) grow(history.columns[name], part, before, fresh.map((place) => column[part]?.[place] ?? 0));
    }
  }
  const gone = history.at.findIndex((moment) => moment >= state.now - SPANS[history.span] - 120);
  if (gone > 0) {
    history.at.splice(0, gone);
    for (const column of Object.values(history.columns)) for (const list of Array.isArray(column) ? [column] : Object.values(column)) list.splice(0, gone);
  }
}

function grow(columns, name, before, fresh) {
  columns[name] ??= Array(before).fill(null);
  columns[name].push(...fresh);
}

/** What happened in the last seconds, as rates. */
function sumLatest() {
  const { at, columns } = history;
  const end = at.at(-1) ?? 0;
  const places = at.map((moment, place) => (moment > end - LATEST_SECONDS ? place : -1)).filter((place) => place >= 0);
  const sum = (column) => places.reduce((total, place) => total + (column?.[place] ?? 0), 0);
  const seconds = sum(columns.seconds);
  const over = (column) => (seconds > 0 ? sum(column) / seconds : null);
  const known = places.some((place) => (columns.results?.[place] ?? null) !== null);
  const computedOf = Object.fromEntries(Object.entries(columns.computed ?? {}).map(([name, column]) => [name, over(column)]));
  const busyOf = Object.fromEntries(Object.entries(columns.busy ?? {}).map(([name, column]) => [name, over(column)]));
  const total = (rates) => (seconds > 0 ? Object.values(rates).reduce((all, one) => all + one, 0) : null);
  return { results: known ? over(columns.results) : null, computedOf, busyOf, computed: total(computedOf), busy: seconds > 0 ? Math.min(1, total(busyOf)) : null };
}

function showCharts(state) {
  const { at, columns } = history;
  const to = state.now;
  const least = history.span === "short" ? 120 : 3600;
  const from = Math.max(to - SPANS[history.span], Math.min((at[0] ?? to) - 2, to - least));
  const over = (column, most = Infinity) => column.map((value, place) => (value === null || !columns.seconds[place] ? null : Math.min(most, value / columns.seconds[place])));
  const one = (key, label, values) => ({ key, label, values: values ?? [] });
  const names = Object.keys(columns.computed ?? {});
  CHARTS.queue.update(at, ["computing", "ready", "waiting"].map((name) => one(name, name, columns[name])), from, to);
  CHARTS.results.update(at, [one("completed", "results", over(columns.results ?? []))], from, to);
  CHARTS.oldest.update(at, [one("waiting", "oldest", (columns.oldest ?? []).map((value, place) => (columns.waiting[place] === null ? null : value ?? 0)))], from, to);
  CHARTS.computed.update(at, names.map((name, place) => one(`executor${place}`, name, over(columns.computed[name]))), from, to);
  CHARTS.busy.update(at, names.map((name, place) => one(`executor${place}`, name, over(columns.busy[name], 1))), from, to);
  CHARTS.lag.update(at, [one("plain", "late by", columns.lag)], from, to);
  const computes = state.process.executors.length > 0;
  CHARTS.computed.element.hidden = CHARTS.busy.element.hidden = !computes;
  find("charts").classList.toggle("few", !computes);
}

function showBar(state) {
  const { process } = state;
  const bad = process.actors.filter((actor) => !actor.healthy).map((actor) => actor.name);
  const [kind, text] = process.draining
    ? ["draining", "Draining"]
    : !process.started
      ? ["draining", "Starting"]
      : bad.length || state.database.error !== null
        ? ["bad", `Degraded: ${bad.length ? bad.join(", ") : "database"}`]
        : process.ready
          ? ["good", "Ready"]
          : ["bad", "Not ready"];
  find("status").className = `status ${kind}`;
  setText(find("status-text"), text);
  setText(find("identity"), `${process.host}:${process.process} · ${process.roles.join(", ")} · ${process.version}, plan ${process.plan_version} · up ${duration(state.now - process.since)}`);
  const banners = [...process.notices.map((notice) => ["notice", notice])];
  if (state.database.error !== null) banners.push(["bad", `The database cannot be seen: ${state.database.error}. What is shown of it is old.`]);
  showBanners(banners);
}

function showBanners(banners) {
  keyed(find("banners"), banners, ([, text]) => text, ([kind, text]) => h("p", { class: `banner ${kind}` }, text));
}

function showOverview(state) {
  const latest = sumLatest();
  showTiles(state, latest);
  showCharts(state);
  showExecutors(state, latest);
  showParts(state);
  showQueue(state);
  showTransactions(state);
  showFailures(state);
  document.title = state.process.ready ? "coproc" : "coproc: not ready";
}

async function turn() {
  if (page.asking) return;
  page.asking = true;
  try {
    const after = history.at.at(-1) ?? 0;
    const span = history.span;
    const state = await ask(`page/state.json?span=${span}&after=${after}`);
    page.state = state;
    page.lost = null;
    remember(state);
    showBar(state);
    showOverview(state);
    if (page.view !== null) await lookAgain();
  } catch (error) {
    page.lost ??= Date.now();
    find("status").className = "status bad";
    setText(find("status-text"), "Out of reach");
    showBanners([["bad", `This process does not answer (since ${clock(page.lost / 1000)}): ${error.message}`]]);
  } finally {
    page.asking = false;
  }
}

async function lookAgain() {
  const view = page.view;
  if (view.isOver) return;
  try {
    const transaction = await ask(`page/transactions/${encodeURIComponent(view.id)}.json`);
    if (view === page.view) view.update(transaction);
  } catch (error) {
    if (view === page.view) view.fail(error.message);
  }
}

function beat() {
  clearTimeout(page.timer);
  page.timer = setTimeout(async () => {
    if (!page.paused && !document.hidden) await turn();
    beat();
  }, PERIOD);
}

async function route() {
  const id = /^#transaction\/(.+)$/.exec(location.hash)?.[1] ?? null;
  find("overview").hidden = id !== null;
  find("transaction").hidden = id === null;
  if (id === null) {
    page.view = null;
    find("transaction").replaceChildren();
    if (page.state !== null) showCharts(page.state);
    return;
  }
  page.view = new TransactionView(find("transaction"), decodeURIComponent(id));
  page.view.title.focus();
  await lookAgain();
}

find("lookup").addEventListener("submit", (event) => {
  event.preventDefault();
  const id = find("lookup-id").value.trim().replace(/^0x/i, "").toLowerCase();
  const isGood = /^([0-9a-f]{2})+$/.test(id);
  setText(find("lookup-error"), isGood ? "" : "An id is an even number of hexadecimal digits.");
  find("lookup-id").setAttribute("aria-invalid", String(!isGood));
  if (!isGood) return;
  if (location.hash === `#transaction/${id}`) route();
  else location.hash = `#transaction/${id}`;
});

find("spans").addEventListener("change", (event) => {
  Object.assign(history, { span: event.target.value, at: [], columns: {} });
  turn();
});

find("pause").addEventListener("click", () => {
  page.paused = !page.paused;
  find("pause").setAttribute("aria-pressed", String(page.paused));
  setText(find("pause"), page.paused ? "Go on" : "Pause");
  if (!page.paused) turn();
});

document.addEventListener("visibilitychange", () => { if (!document.hidden && !page.paused) turn(); });
addEventListener("hashchange", route);

await turn();
await route();
beat();
