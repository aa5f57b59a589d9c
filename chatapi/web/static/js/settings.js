// The request's settings: dialect, system prompt, stream, and the sampling parameters of the dialect.

import { at, element } from "./dom.js";
import { number } from "./texts.js";

/** Fills the form from a conversation, and keeps the conversation as the form has it. */
export class Settings {
  /** `usual` is the dialect of a conversation whose own is not (or no longer) one of `dialects`. */
  constructor(dialects, usual, changed) {
    this.dialects = dialects;
    this.usual = usual;
    this.changed = changed;
    this.dialect = at("dialect");
    this.system = at("system");
    this.stream = at("stream");
    this.parameters = at("parameters");
    this.dialect.addEventListener("change", () => this.update(() => (this.conversation.dialect = this.dialect.value)));
    this.system.addEventListener("input", () => this.update(() => (this.conversation.system = this.system.value)));
    this.stream.addEventListener("change", () => this.update(() => (this.conversation.stream = this.stream.checked)));
  }

  update(change) {
    change();
    this.showDialect();
    this.changed();
  }

  show(conversation) {
    this.conversation = conversation;
    if (!this.current) conversation.dialect = this.usual;
    this.dialect.value = conversation.dialect;
    this.system.value = conversation.system;
    this.stream.checked = conversation.stream;
    this.drawn = null;
    this.showDialect();
  }

  get current() {
    return this.dialects.find(({ path }) => path === this.conversation.dialect);
  }

  showDialect() {
    const { path, conversational, parameters } = this.current;
    if (this.drawn === path) return;
    this.drawn = path;
    at("dialect-note").hidden = conversational;
    this.parameters.replaceChildren(...parameters.map((parameter) => this.field(parameter)));
  }

  field({ name, key, type, min, max, hint }) {
    const id = `parameter-${key}`;
    const range = min != null && max != null ? `${number(min)} … ${number(max)}` : min != null ? `≥ ${number(min)}` : "";
    const several = type === "lines" || type === "object";
    const input = element(several ? "textarea" : "input", {
      ...{ id, "aria-describedby": `${id}-hint`, autocomplete: "off", spellcheck: "false" },
      ...(several ? { rows: 1 } : { type: INPUTS[type] }),
      ...(type === "number" && { step: "any", inputmode: "decimal" }),
      ...(type === "integer" && { step: 1, inputmode: "numeric" }),
      ...(type !== "flag" && { min, max, placeholder: range || (type === "object" ? '{"1234": -100}' : "–") }),
      oninput: () => {
        const given = this.conversation.parameters;
        if (type === "flag" ? input.checked : input.value.trim()) given[key] = type === "flag" ? "true" : input.value;
        else delete given[key];
        input.toggleAttribute("aria-invalid", input.validity.rangeOverflow || input.validity.rangeUnderflow);
        this.changed();
      },
    });
    if (type === "flag") input.checked = this.conversation.parameters[key] === "true";
    else input.value = this.conversation.parameters[key] ?? "";
    return element(
      "div",
      { class: type === "object" ? "field wide" : "field" },
      element("label", { for: id, translate: "no" }, name),
      input,
      element("small", { id: `${id}-hint` }, hint),
    );
  }

  /** The parameters that are set, under the names that the dialect has for them. */
  values() {
    const given = this.conversation.parameters;
    const set = this.current.parameters.filter(({ key }) => given[key]?.trim());
    return Object.fromEntries(set.map(({ name, key, type }) => [name, read(given[key], type)]));
  }
}

const INPUTS = { flag: "checkbox", text: "text", number: "number", integer: "number" };

function read(text, type) {
  if (type === "flag") return text === "true";
  if (type === "object") return parsed(text);
  if (type === "lines") return text.split("\n").filter(Boolean);
  if (type === "text") return text.trim();
  const value = Number(text);
  return Number.isFinite(value) ? value : text; // the gateway says what is wrong with it
}


/** JSON, or the text as it is where it is none: the gateway says what it wants. */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
