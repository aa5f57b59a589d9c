// What every page has: the language switch, and light or dark. Both are cookies, so that the server writes the page so.
// It imports nothing: until it has run, nothing else is fetched beside the page.

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

// The scripts of a page come last, and are fetched once it has been read: so it is painted before they are there.
const later = at("later");
if (later) document.body.append(later.content);
