// What is known of a model, and what was measured of an answer, in a few words each.

import { _, duration, number } from "./texts.js";

const LEAST_S = 0.05; // of writing, below which a speed would tell of the network's packets alone
const compact = { notation: "compact", maximumSignificantDigits: 3 };
const dollars = { style: "currency", currency: "USD", minimumFractionDigits: 2, maximumFractionDigits: 10 };
const money = (usd) => number(Number(usd.toPrecision(2)), dollars);
const numbers = (values) => values.filter(Number.isFinite);

/** The providers that serve `row` now; the pinned one alone, where the model's id names it after a colon. */
function providersOf(row, model = "") {
  const live = (Array.isArray(row?.providers) ? row.providers : []).filter((one) => one?.status === "live");
  const pinned = live.filter((one) => one.provider === model.split(":")[1]);
  return pinned.length ? pinned : live;
}

function pricesOf(providers) {
  return providers.map((one) => one.pricing).filter((price) => Number.isFinite(price?.input) && Number.isFinite(price?.output));
}

/** `row` of GET /v1/models in words; empty where nothing is known. */
export function modelFacts(row, model = row?.id) {
  const providers = providersOf(row, model);
  const context = Math.max(...numbers([row?.context_length, ...providers.map((one) => one.context_length)]), 0);
  const prices = pricesOf(providers).sort((a, b) => a.input + a.output - b.input - b.output);
  const latency = Math.min(...numbers(providers.map((one) => one.first_token_latency_ms)));
  const speed = Math.max(...numbers(providers.map((one) => one.throughput)), 0);
  const inputs = row?.architecture?.input_modalities;
  const facts = [];
  if (row?.served_by) facts.push(_("answered by {model}", { model: row.served_by }));
  if (context) facts.push(_("{count} tokens of context", { count: number(context, context < 10_000 ? {} : compact) }));
  if (prices.length) {
    const [cheapest] = prices;
    const values = { input: money(cheapest.input), output: money(cheapest.output) };
    facts.push(
      prices.length > 1
        ? _("from {input} in, {output} out per million tokens", values)
        : _("{input} in, {output} out per million tokens", values),
    );
  }
  if (Number.isFinite(latency)) facts.push(_("first token in {time}", { time: duration(latency) }));
  if (speed) facts.push(_("{count} tokens/s", { count: number(speed, { maximumSignificantDigits: 2 }) }));
  if (providers.some((one) => one.supports_tools === true)) facts.push(_("tools"));
  if (Array.isArray(inputs) && inputs.includes("image")) facts.push(_("images"));
  return facts;
}

/** What an answer took, measured here and by the gateway. */
export function answerFacts(answer, row) {
  const { usage, firstTokenMs, totalMs, usageSource } = answer;
  const facts = [];
  if (firstTokenMs !== null) facts.push(_("first token after {time}", { time: duration(firstTokenMs) }));
  else if (answer.status === "done") facts.push(_("whole answer after {time}", { time: duration(totalMs) }));
  const writingS = (totalMs - firstTokenMs) / 1000;
  if (usage?.completion > 1 && firstTokenMs !== null && writingS > LEAST_S) {
    const rate = (usage.completion - 1) / writingS;
    facts.push(_("{count} tokens/s", { count: number(rate, { maximumSignificantDigits: 3, notation: "compact" }) }));
  }
  if (usage) {
    const counts = { prompt: number(usage.prompt), completion: number(usage.completion) };
    facts.push(_("{prompt} + {completion} tokens", counts) + (usageSource ? ` (${sourceName(usageSource)})` : ""));
  }
  const cost = usage && price(row, answer.model || answer.asked, usage);
  if (cost) facts.push(cost);
  return facts;
}

function sourceName(source) {
  const names = { upstream: _("counted upstream"), tokenizer: _("counted by tokenizer"), estimate: _("estimated") };
  return names[source] ?? source;
}

/** What the tokens cost; from the cheapest to the dearest provider where it is not known which one answered. */
function price(row, model, { prompt, completion }) {
  const costs = pricesOf(providersOf(row, model)).map(({ input, output }) => (prompt * input + completion * output) / 1e6);
  if (!costs.length) return "";
  const [least, most] = [Math.min(...costs), Math.max(...costs)].map(money);
  return least === most ? least : `${least} – ${most}`;
}
