// The last request as curl, Python and JavaScript, written by the gateway with the code that also migrates requests.

import { key, send } from "./api.js";
import { at, element } from "./dom.js";
import { codeBlock } from "./markdown.js";

const LANGUAGES = { curl: "bash", python: "python", javascript: "javascript" };

/** The buttons show and hide the panel; `request` gives {path, body} of what was or would be sent. */
export class Snippets {
  constructor(request) {
    this.request = request;
    this.shown = "";
    this.panel = at("code");
    this.buttons = Object.keys(LANGUAGES).map((name) => at(`show-${name}`));
    for (const button of this.buttons) {
      button.addEventListener("click", () => this.toggle(button.value));
    }
    at("code-close").addEventListener("click", () => this.toggle(this.shown));
  }

  toggle(name) {
    const before = this.shown;
    this.shown = name === before ? "" : name;
    for (const button of this.buttons) button.setAttribute("aria-expanded", String(button.value === this.shown));
    this.panel.hidden = !this.shown;
    if (!this.shown) at(`show-${before}`)?.focus();
    return this.refresh();
  }

  /** Show the request as it is now; what was asked for last is what is shown. */
  async refresh() {
    const name = this.shown;
    if (!name) return;
    const home = at("code-text");
    let made;
    try {
      const found = await (await send("/playground/snippets", { ...this.request(), keyed: Boolean(key.get()) })).json();
      made = codeBlock(element("code", { class: `language-${LANGUAGES[name]}` }, found[name]));
    } catch (failure) {
      made = element("p", { class: "error", role: "alert" }, failure.message);
    }
    if (name === this.shown) home.replaceChildren(made);
  }
}
