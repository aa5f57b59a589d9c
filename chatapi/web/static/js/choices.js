// What an answer has besides its first choice: the other ones of `n`, and the probabilities of its tokens.

import { element } from "./dom.js";
import { Prose } from "./markdown.js";
import { _, number } from "./texts.js";

const MOST_TOKENS = 200; // in the table

/** The other choices, each under its number. */
export function otherChoices({ others }) {
  return others.map((text, at) => {
    const prose = element("div", { class: "prose" });
    new Prose(prose).finish(text ?? "");
    return element("section", { class: "choice" }, element("h4", {}, _("Choice {number}", { number: at + 2 })), prose);
  });
}

/** The tokens, how likely each was, and what else might have stood there; null where none is known. */
export function probabilities({ logprobs }) {
  if (!logprobs.length) return null;
  const known = logprobs.some(({ instead }) => instead.length);
  const titles = [_("Token"), _("Probability"), ...(known ? [_("Instead")] : [])];
  const head = titles.map((title) => element("th", { scope: "col" }, title));
  const rows = logprobs.slice(0, MOST_TOKENS).map(({ token, logprob, instead }) => {
    const others = instead.filter((one) => one.token !== token).map((one) => `${shown(one.token)} ${percent(one.logprob)}`);
    const cells = [percent(logprob), ...(known ? [others.join(" · ")] : [])].map((text) => element("td", {}, text));
    return element("tr", {}, element("th", { scope: "row" }, shown(token)), ...cells);
  });
  const table = element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows));
  const title = _("Probabilities");
  const frame = element("div", { class: "wide", tabindex: 0, role: "region", "aria-label": title, dir: "ltr" }, table);
  return element("details", { class: "probabilities" }, element("summary", {}, title), frame);
}

const shown = (token) => token.replace(/ /g, "␣").replace(/\n/g, "⏎");
const percent = (logprob) => number(Math.exp(logprob), { style: "percent", maximumFractionDigits: 1 });
