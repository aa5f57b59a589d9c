// What every page has: the language switch, and light or dark. Both are cookies, so that the server writes the page so.
// It lies within the page and imports nothing, so that nothing is fetched beside the page until that is painted.

const at = (id) => document.getElementById(id);
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

// The scripts of a page would hold up its first painting: they come right after it. A tab that nobody sees is not
// painted, and need not wait.
const begin = () => at("later").replaceWith(at("later").content);
if (document.hidden) begin();
else requestAnimationFrame(() => requestAnimationFrame(begin));
