// The dashboard: data by fetch, charts by uPlot, each with a table; all of it again every few seconds while it is live.

import { key, send } from "./api.js";
import { at, element } from "./dom.js";
import { _, duration, language, number } from "./texts.js";

const EVERY_MS = 5000;
const CHARTS = {
  calls: { lines: { completed: _("completed"), others: _("all others") }, say: number, colours: ["--accent", "--danger"] },
  tokens: { lines: { prompt: _("prompt"), completion: _("completion") }, say: number },
  "first-token": { lines: { p50: "p50", p95: "p95", p99: "p99" }, say: duration },
  "total-time": { lines: { p50: "p50", p95: "p95", p99: "p99" }, say: duration },
};
const COLOURS = ["--accent", "--second", "--soft"];
const plots = new Map();
let timer = 0;

function query() {
  const to = Math.ceil(Date.now() / 1000);
  const asked = { from: to - Number(at("range").value), to };
  if (at("of-key").value) asked.key = at("of-key").value;
  if (at("of-model").value) asked.model = at("of-model").value;
  return new URLSearchParams(asked);
}

async function get(chart) {
  return (await send(`/dashboard/data/${chart}?${query()}`)).json();
}

async function refresh() {
  clearTimeout(timer);
  try {
    const names = [...Object.keys(CHARTS), "keys", "models", "errors", "state"];
    const found = Object.fromEntries(await Promise.all(names.map(async (name) => [name, await get(name)])));
    at("key-form").hidden = true;
    at("problem").hidden = true;
    at("panels").hidden = false;
    show(found);
  } catch (failure) {
    at("key-form").hidden = !failure.needsKey;
    at("problem").hidden = failure.needsKey && !key.get();
    at("problem").textContent = failure.message;
    if (failure.needsKey) {
      at("panels").hidden = true;
      return; // nothing changes before there is a key
    }
  }
  if (at("live").checked) timer = setTimeout(refresh, EVERY_MS);
}

function show(found) {
  for (const name of Object.keys(CHARTS)) chart(name, found[name]);
  const sum = (values) => values.reduce((all, one) => all + (one ?? 0), 0);
  const total = (name) => Object.values(found[name].lines).reduce((all, line) => all + sum(line), 0);
  at("open-calls").textContent = number(found.state.open_calls);
  at("all-calls").textContent = number(total("calls"));
  at("all-tokens").textContent = number(total("tokens"));
  at("all-errors").textContent = number(sum(found.errors.rows.map((row) => row.count)));
  at("sampled").hidden = !found.calls.sampled;
  const counts = [[_("Calls"), "calls"], [_("Prompt tokens"), "prompt_tokens"], [_("Completion tokens"), "completion_tokens"]];
  const keyed = found.keys.rows.map((row) => ({ ...row, who: row.key_name ?? row.key_id ?? _("without a key") }));
  table("keys", [[_("Key"), "who"], ...counts], keyed);
  table("models", [[_("Model"), "model"], ...counts], found.models.rows);
  table("errors", [[_("Code"), "code"], [_("Count"), "count"]], found.errors.rows);
  table("circuits", [[_("Model"), "model"], [_("Seconds since its last failure"), "failed_s_ago"]], found.state.circuits);
  const limits = found.state.limits.map((row) => ({ ...row, who: row.key_name ?? row.key_id }));
  table("limits", [[_("Key"), "who"], [_("Limit"), "limit"], [_("Used"), "used"], [_("of"), "of"]], limits);
  const legacy = found.state.legacy.map((row) => ({ ...row, who: row.key_name ?? row.key_id ?? _("without a key") }));
  const columns = [[_("Key"), "who"], [_("Client"), "client"], [_("This week"), "this_week"], [_("Last week"), "last_week"]];
  table("legacy", columns, legacy);
  choices("of-key", found.keys.rows.map((row) => [row.key_id ?? "", row.key_name ?? row.key_id]), _("all keys"));
  choices("of-model", found.models.rows.map((row) => [row.model, row.model]), _("all models"));
}

/** What can be chosen is what there was; what is chosen stays. */
function choices(id, found, all) {
  const select = at(id);
  const chosen = select.value;
  const known = new Map(found.filter(([value]) => value));
  if (chosen && !known.has(chosen)) known.set(chosen, select.selectedOptions[0].textContent);
  const options = [["", all], ...known].map(([value, text]) => element("option", { value, selected: value === chosen }, text));
  select.replaceChildren(...options);
}

function table(id, columns, rows) {
  at(`table-${id}`).querySelector(".wide").replaceChildren(
    rows.length ? made(columns, rows, number) : element("p", { class: "none" }, _("None.")),
  );
}

function made(columns, rows, say) {
  const head = element("tr", {}, ...columns.map(([title]) => element("th", { scope: "col" }, title)));
  const cell = (value) => (value == null ? "–" : typeof value === "number" ? say(value) : value);
  const body = rows.map((row) =>
    element("tr", {}, ...columns.map(([, name], place) => element(place ? "td" : "th", place ? {} : { scope: "row" }, cell(row[name])))),
  );
  return element("table", {}, element("thead", {}, head), element("tbody", {}, ...body));
}

// --- charts

function chart(name, { at: times, lines }) {
  const { lines: titles, say, colours = COLOURS } = CHARTS[name];
  const figure = at(`chart-${name}`);
  const rows = times.map((time, place) => ({
    time: new Date(time * 1000).toLocaleString(language),
    ...Object.fromEntries(Object.entries(lines).map(([line, values]) => [line, values[place]])),
  }));
  const columns = [[_("Time"), "time"], ...Object.entries(titles).map(([line, title]) => [title, line])];
  figure.querySelector(".wide").replaceChildren(made(columns, rows.reverse(), say));
  const data = [times, ...Object.keys(titles).map((line) => lines[line])];
  const plot = plots.get(name);
  if (plot) {
    plot.setData(data);
    return;
  }
  plots.set(name, new window.uPlot(options(figure, titles, say, colours), data, figure.querySelector(".plot")));
}

function options(figure, titles, say, colours) {
  const style = getComputedStyle(document.documentElement);
  const colour = (variable) => resolved(style.getPropertyValue(variable));
  const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
  const series = Object.values(titles).map((label, place) => ({
    label,
    stroke: colour(colours[place]),
    width: 2,
    points: { show: false },
    spanGaps: true,
    value: (_plot, value) => (value == null ? "–" : say(value)),
  }));
  return {
    width: figure.querySelector(".plot").clientWidth,
    height: 208,
    legend: { live: true },
    cursor: { y: false },
    scales: { y: { range: (_plot, _low, high) => [0, Math.max(1, high * 1.1)] } },
    axes: [{ ...axis, values: (_plot, values) => moments(values) }, { ...axis, size: 64, values: (_plot, values) => values.map(say) }],
    series: [{ label: _("Time"), value: (_plot, value) => (value == null ? "–" : moment(value)) }, ...series],
  };
}

function moment(seconds) {
  return new Date(seconds * 1000).toLocaleString(language, { dateStyle: "short", timeStyle: "short" });
}

/** The marks of a time axis: hours within two days, else days. */
function moments(seconds) {
  const short = seconds.at(-1) - seconds[0] < 172_800 ? { timeStyle: "short" } : { dateStyle: "short" };
  return seconds.map((one) => new Date(one * 1000).toLocaleString(language, short));
}

/** A colour as a canvas takes it: `light-dark()` is chosen by the browser. */
function resolved(value) {
  const probe = element("i", { hidden: true });
  document.body.append(probe);
  probe.style.color = value;
  const colour = getComputedStyle(probe).color;
  probe.remove();
  return colour;
}

function redraw() {
  for (const [name, plot] of plots) {
    plot.destroy();
    plots.delete(name);
  }
  refresh();
}

for (const id of ["range", "of-key", "of-model", "live"]) at(id).addEventListener("change", redraw);
at("theme").addEventListener("click", redraw);
let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth !== width) {
    width = innerWidth;
    redraw();
  }
});
at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key.set(at("key").value.trim());
  refresh();
});
at("key").value = key.get();
refresh();
