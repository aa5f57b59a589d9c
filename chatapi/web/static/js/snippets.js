// The last request as curl, Python and JavaScript, written by the gateway with the code that also migrates requests.

import { send } from "./api.js";
import { at, button, element } from "./dom.js";
import { codeBlock } from "./markdown.js";
import { _ } from "./texts.js";

const LANGUAGES = { curl: "bash", python: "python", javascript: "javascript" };

/** The buttons show and hide the panel; `request` gives {path, body} of what was or would be sent. */
export class Snippets {
  constructor(request) {
    this.request = request;
    this.shown = "";
    this.panel = at("code");
    this.buttons = Object.keys(LANGUAGES).map((name) => at(`show-${name}`));
    for (const show of this.buttons) show.addEventListener("click", () => this.toggle(show.value));
    this.close = button("×", () => this.toggle(this.shown), { "aria-label": _("Close the code") });
  }

  toggle(name) {
    const before = this.shown;
    this.shown = name === before ? "" : name;
    for (const show of this.buttons) show.setAttribute("aria-expanded", String(show.value === this.shown));
    this.panel.hidden = !this.shown;
    if (!this.shown) at(`show-${before}`)?.focus();
    return this.refresh();
  }

  /** Show the request as it is now; what was asked for last is what is shown. */
  async refresh() {
    const name = this.shown;
    if (!name) return;
    let made;
    try {
      const found = await (await send("/playground/snippets", this.request())).json();
      made = codeBlock(element("code", { class: `language-${LANGUAGES[name]}` }, found[name]));
      made.querySelector("figcaption").append(this.close);
    } catch (failure) {
      made = element("div", { class: "notice" }, element("p", { role: "alert" }, failure.message), this.close);
    }
    if (name === this.shown) this.panel.replaceChildren(made);
  }
}
