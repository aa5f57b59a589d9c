// The texts of scripts in the page's language. English is written in the code and is the key of each translation.

const found = document.getElementById("texts");
const translations = found ? JSON.parse(found.textContent) : {};

export const language = document.documentElement.lang;

/** `message` in the page's language, its {placeholders} filled. */
export function _(message, values = {}) {
  return (translations[message] ?? message).replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

/** A number as it is written in the page's language. */
export function number(value, options = {}) {
  return new Intl.NumberFormat(language, options).format(value);
}

/** Milliseconds as people read them: 85 ms, 1.25 s. */
export function duration(ms) {
  return ms < 1000 ? `${number(Math.round(ms))} ms` : `${number(ms / 1000, { maximumSignificantDigits: 3 })} s`;
}
