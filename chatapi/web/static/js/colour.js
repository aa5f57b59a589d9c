// Code in colour, by highlight.js: it and each language are loaded when the first block wants them.

import "../vendor/dompurify/purify.min.js";

const { DOMPurify } = globalThis;
const LANGUAGES = {
  bash: "bash sh shell zsh console",
  css: "css",
  diff: "diff patch",
  go: "go golang",
  java: "java",
  javascript: "javascript js jsx mjs",
  json: "json jsonc",
  python: "python py",
  rust: "rust rs",
  sql: "sql",
  typescript: "typescript ts tsx",
  xml: "xml html svg",
  yaml: "yaml yml",
};
const FILE_OF = new Map(Object.entries(LANGUAGES).flatMap(([file, names]) => names.split(" ").map((name) => [name, file])));
const MOST = 50_000; // characters; more is shown without colours

/** Give the element `code` its colours, if its language is known; soon. */
export async function colour(code, name) {
  const language = FILE_OF.get(name);
  const text = code.textContent;
  if (!language || text.length > MOST) return;
  try {
    const { default: hljs } = await import("../vendor/highlight/core.min.js");
    if (!hljs.getLanguage(language)) {
      const { default: grammar } = await import(`../vendor/highlight/${language}.min.js`);
      hljs.registerLanguage(language, grammar);
    }
    const html = hljs.highlight(text, { language }).value;
    code.replaceChildren(
      DOMPurify.sanitize(html, { ALLOWED_TAGS: ["span"], ALLOWED_ATTR: ["class"], RETURN_DOM_FRAGMENT: true }),
    );
  } catch {
    // The code is there without colours.
  }
}
