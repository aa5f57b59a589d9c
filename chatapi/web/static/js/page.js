// What every page has: the language switch, and light or dark. Both are cookies, so that the server writes the page so.

import { at } from "./dom.js";

const YEAR_S = 31_536_000;

function remember(name, value) {
  document.cookie = `chatapi_${name}=${value}; path=/; max-age=${YEAR_S}; SameSite=Lax`;
}

at("language").addEventListener("change", (event) => {
  remember("language", event.target.value);
  location.reload();
});

at("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  remember("theme", root.dataset.theme);
});
