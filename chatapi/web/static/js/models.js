// The models: the list as the gateway has it, and the box in which one is chosen, from the list or by typing any id.

import { send } from "./api.js";
import { element } from "./dom.js";
import { modelFacts } from "./facts.js";
import { _ } from "./texts.js";

const MOST_SHOWN = 100;

/** The rows of GET /v1/models. Raises Failure. */
export async function fetchModels() {
  const found = await (await send("/v1/models")).json();
  return (Array.isArray(found.data) ? found.data : []).filter((row) => typeof row?.id === "string");
}

/** The row of `model`, its suffix after a colon left aside. */
export function rowOf(rows, model) {
  return rows.find((row) => row.id === model) ?? rows.find((row) => row.id === model.split(":")[0]);
}

/** An ARIA combobox with a list (APG): what is typed narrows it, arrows walk it, and what is typed counts as it is. */
export class ModelPicker {
  constructor(number, changed) {
    this.rows = [];
    this.active = -1;
    this.wanted = ""; // which list is open, or will be once there is one: "all", "narrow"
    this.changed = changed;
    const [id, listId, factsId] = ["model", "model-list", "model-facts"].map((name) => `${name}-${number}`);
    this.input = element("input", {
      ...{ id, type: "text", role: "combobox", class: "model-input", placeholder: _("org/name"), dir: "ltr" },
      ...{ "aria-autocomplete": "list", "aria-expanded": "false", "aria-controls": listId, "aria-describedby": factsId },
      ...{ autocomplete: "off", autocapitalize: "off", spellcheck: "false", enterkeyhint: "done" },
      oninput: () => this.open(true),
      onclick: () => this.open(false),
      onfocus: () => this.input.select(),
      onblur: () => this.close(),
      onchange: () => this.commit(this.input.value.trim()),
      onkeydown: (event) => this.press(event),
    });
    this.list = element("ul", { id: listId, role: "listbox", class: "model-list", "aria-label": _("Suggestions"), hidden: true });
    this.list.addEventListener("mousedown", (event) => event.preventDefault()); // the input keeps the focus
    this.facts = element("p", { id: factsId, class: "facts" });
    this.root = element(
      "div",
      { class: "picker" },
      element("label", { for: id }, _("Model")),
      element("div", { class: "model-box" }, this.input, this.list),
      this.facts,
    );
  }

  get value() {
    return this.input.value.trim();
  }

  show(model) {
    this.input.value = model;
    this.describe();
  }

  /** The list has come; what is written in the box stays. */
  know(rows) {
    this.rows = rows;
    this.describe();
    if (this.wanted) this.open(this.wanted === "narrow");
  }

  describe() {
    const row = rowOf(this.rows, this.value);
    const unknown = this.rows.length && this.value && !row;
    const words = unknown ? [_("not in the list; it is asked for as written")] : modelFacts(row, this.value);
    this.facts.replaceChildren(...words.map((fact) => element("span", {}, fact)));
  }

  /** Open the list: all of it, or what matches the words typed. */
  open(narrow) {
    this.wanted = narrow ? "narrow" : "all";
    const words = narrow ? this.value.toLowerCase().split(/\s+/) : [];
    const matching = this.rows.filter(({ id }) => words.every((word) => id.toLowerCase().includes(word)));
    this.list.replaceChildren(...matching.slice(0, MOST_SHOWN).map((row, at) => this.option(row, at)));
    this.active = -1;
    this.input.removeAttribute("aria-activedescendant");
    this.expand(matching.length > 0);
    if (!narrow) this.list.querySelector("[aria-selected=true]")?.scrollIntoView({ block: "nearest" });
  }

  option(row, at) {
    const facts = modelFacts(row).join(" · ");
    return element(
      "li",
      {
        ...{ id: `${this.list.id}-${at}`, role: "option", "aria-selected": String(row.id === this.value) },
        onclick: () => this.choose(row.id),
      },
      element("span", { class: "model-id", dir: "ltr" }, row.id),
      facts ? element("small", {}, facts) : null,
    );
  }

  expand(open) {
    this.list.hidden = !open;
    this.input.setAttribute("aria-expanded", String(open));
  }

  close() {
    this.wanted = "";
    this.expand(false);
  }

  choose(model) {
    this.input.value = model;
    this.close();
    this.commit(model);
  }

  commit(model) {
    this.describe();
    this.changed(model);
  }

  press(event) {
    const options = this.list.children;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (this.list.hidden) this.open(false);
      const step = event.key === "ArrowDown" ? 1 : -1;
      this.walk((this.active + step + options.length + (this.active < 0 && step < 0 ? 1 : 0)) % (options.length || 1));
    } else if (event.key === "Enter") {
      event.preventDefault();
      if (!this.list.hidden && options[this.active]) options[this.active].click();
      else this.choose(this.value);
    } else if (event.key === "Escape" && !this.list.hidden) {
      event.stopPropagation();
      this.close();
    }
  }

  walk(to) {
    this.list.children[this.active]?.classList.remove("active");
    const option = this.list.children[to];
    if (!option) return;
    this.active = to;
    option.classList.add("active");
    option.scrollIntoView({ block: "nearest" });
    this.input.setAttribute("aria-activedescendant", option.id);
  }
}
