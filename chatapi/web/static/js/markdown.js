// Markdown to elements that are safe to show. HTML in it is shown as the characters it is made of, links go to http,
// https or mailto only, and no picture is loaded: marked never sees HTML as such, and DOMPurify looks at the result.

import { Marked } from "../vendor/marked/marked.esm.js";
import "../vendor/dompurify/purify.min.js";
import { colour } from "./colour.js";
import { element } from "./dom.js";
import { _ } from "./texts.js";

const { DOMPurify } = globalThis;
const SAFE_ADDRESS = /^(?:https?:\/\/|mailto:)/i;
const ALLOWED = {
  ALLOWED_TAGS: [
    ..."p br strong em del code pre a ul ol li blockquote hr h3 h4 h5 h6".split(" "),
    ..."table thead tbody tr th td".split(" "),
  ],
  ALLOWED_ATTR: ["href", "class", "start", "align"],
  ALLOWED_URI_REGEXP: SAFE_ADDRESS,
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

function escaped(text) {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}

const marked = new Marked({
  gfm: true,
  tokenizer: { html: () => undefined, tag: () => undefined },
  renderer: {
    html: ({ text }) => escaped(text),
    heading({ tokens, depth }) {
      const level = Math.min(depth + 2, 6); // the page's own headings come first
      return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>`;
    },
    code: ({ text, lang }) => {
      const language = /^[\w+#-]+/.exec(lang ?? "")?.[0].toLowerCase() ?? "";
      return `<pre><code class="${language && `language-${escaped(language)}`}">${escaped(text)}</code></pre>`;
    },
    link({ href, tokens, raw }) {
      return SAFE_ADDRESS.test(href) ? `<a href="${escaped(href)}">${this.parser.parseInline(tokens)}</a>` : escaped(raw);
    },
    image: ({ href, text, raw }) =>
      SAFE_ADDRESS.test(href) ? `<a href="${escaped(href)}">${escaped(text || href)}</a>` : escaped(raw),
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
  },
});

/** `tokens` of a Markdown text as a fragment. */
function fragment(tokens) {
  const made = DOMPurify.sanitize(marked.parser(tokens), ALLOWED);
  for (const link of made.querySelectorAll("a")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow";
  }
  for (const code of made.querySelectorAll("code")) code.dir = "ltr";
  for (const block of made.children) block.dir = "auto"; // right-to-left where its first word, outside of code, is
  for (const table of made.querySelectorAll("table")) {
    const frame = element("div", { class: "wide", tabindex: 0, role: "group", "aria-label": _("Table") });
    table.replaceWith(frame);
    frame.append(table);
  }
  for (const code of made.querySelectorAll("pre > code")) code.parentElement.replaceWith(codeBlock(code));
  return made;
}

/** A block of code with its language, a button that copies it, and colours as soon as they are there. */
export function codeBlock(code) {
  const language = /language-(\S+)/.exec(code.className)?.[1] ?? "";
  const copy = element("button", { type: "button", class: "quiet small" }, _("Copy"));
  copy.addEventListener("click", () => copyText(code.textContent, copy));
  colour(code, language);
  return element(
    "figure",
    { class: "code", dir: "ltr" },
    element("figcaption", {}, element("span", {}, language), copy),
    element("pre", { tabindex: 0 }, code),
  );
}

/** Put `text` on the clipboard, and say so on the button. */
export async function copyText(text, clicked) {
  const words = clicked.textContent;
  try {
    await navigator.clipboard.writeText(text);
    clicked.textContent = _("Copied");
  } catch {
    clicked.textContent = _("Not allowed here"); // no clipboard without https, but for loopback
  }
  setTimeout(() => (clicked.textContent = words), 1500);
}

// Beyond this a run of lines without a blank one is no prose, and marked's time for it grows with its square.
const LONGEST_BLOCK = 10_000;

/** The blocks of a text, or null where it is not worth reading as Markdown. */
function blocks(text) {
  if (text.length > LONGEST_BLOCK && !text.includes("```")) {
    if (text.split(/\n\s*\n/).some((block) => block.length > LONGEST_BLOCK)) return null;
  }
  try {
    return marked.lexer(text);
  } catch {
    return null; // lists in lists without end
  }
}

function shown(tokens, text) {
  try {
    if (tokens) return fragment(tokens);
  } catch {
    // as above
  }
  return element("p", { class: "plain", dir: "auto" }, text);
}

/**
 * A text that grows, shown in `home`. Blocks that can no longer change are made once; only what comes after them is
 * made again, so that a token costs the same in a long answer as in a short one.
 */
export class Prose {
  constructor(home) {
    this.home = home;
    this.settled = 0; // characters that are shown for good
    this.open = []; // the nodes of the rest
  }

  /** Show all of `text`, to which nothing will be added. */
  finish(text) {
    const all = text.replaceAll("\r", "");
    // Once more from the beginning: a definition at its end may have made links of what was text.
    this.home.replaceChildren(shown(blocks(all), all));
    this.settled = 0;
    this.open = [...this.home.childNodes];
  }

  /** Show `text`, which begins as the one before did. */
  grow(text) {
    const rest = text.replaceAll("\r", "").slice(this.settled);
    const found = blocks(rest);
    for (const node of this.open) node.remove();
    let settled = 0;
    if (found) {
      const last = found.findLastIndex((token) => token.type !== "space");
      for (const token of found.splice(0, Math.max(last, 0))) {
        settled += token.raw.length;
        if (token.type !== "space") this.home.append(fragment([token]));
      }
    }
    this.settled += settled;
    const open = shown(found, rest.slice(settled));
    this.open = open.nodeType === Node.DOCUMENT_FRAGMENT_NODE ? [...open.childNodes] : [open];
    this.home.append(open);
  }
}
