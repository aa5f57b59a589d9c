// The models that are asked, one or two side by side, and the list they are chosen from.

import { Failure, key } from "./api.js";
import { at, button } from "./dom.js";
import { ModelPicker, fetchModels } from "./models.js";
import { problem } from "./problem.js";
import { _ } from "./texts.js";

export class ModelBar {
  /**
   * `page` has `embedded`, the model on this machine, and `locked`, what is said to whoever needs a key. `changed` is
   * given the models chosen. `keyBox` is asked for where the list wants one.
   */
  constructor(page, keyBox, changed) {
    this.page = page;
    this.keyBox = keyBox;
    this.changed = changed;
    this.rows = [];
    this.models = [""];
    this.state = at("models-state");
    this.pickers = [0, 1].map((column) => new ModelPicker(column, (model) => this.choose(column, model)));
    at("compare").addEventListener("click", () => this.compare());
  }

  show(models) {
    this.models = models[0] ? models : [this.first()];
    for (const [column, picker] of this.pickers.entries()) {
      if (column >= models.length) picker.root.remove();
      else if (!picker.root.isConnected) at("compare").before(picker.root);
      picker.show(this.models[column] ?? "");
    }
    at("compare").setAttribute("aria-pressed", String(models.length > 1));
    at("chat").classList.toggle("comparing", models.length > 1);
  }

  /** The model in a column, as it is written there; the first one's where there is no such column. */
  value(column) {
    return this.pickers[Math.min(column, this.models.length - 1)].value || this.first();
  }

  choose(column, model) {
    this.models = this.models.map((other, at) => (at === column ? model : other));
    this.changed(this.models);
  }

  compare() {
    const [first, second] = this.models;
    const other = this.rows.find(({ id }) => id !== first)?.id ?? first;
    this.show(second === undefined ? [first, other] : [first]);
    this.changed(this.models);
    this.pickers[this.models.length - 1].input.focus();
  }

  /** The model for somebody who has chosen none. */
  first() {
    const chat = this.rows.find(({ task }) => !task || task === "chat-completion") ?? this.rows[0];
    return this.page.embedded ?? chat?.id ?? "";
  }

  /** Get the list; where that fails, say so, and ask for the key if it is that. */
  async load() {
    this.keyBox.putAway(this.state);
    this.state.replaceChildren(_("Loading the models …"));
    try {
      if (this.page.locked && !key.get()) throw new Failure(this.page.locked, { code: "missing_api_key" });
      this.rows = await fetchModels();
      this.state.replaceChildren(this.rows.length ? "" : _("The gateway lists no models. Write the id of one above."));
      this.keyBox.putAway();
    } catch (failure) {
      this.state.replaceChildren(problem(failure));
      if (failure.needsKey) this.keyBox.ask(this.state);
      else this.state.append(button(_("Load the list again"), () => this.load()));
    }
    for (const picker of this.pickers) picker.know(this.rows);
    const [{ value, input }] = this.pickers;
    if (value || input === document.activeElement) return; // somebody has chosen, or is about to
    this.show([this.first(), ...this.models.slice(1)]);
    this.changed(this.models);
  }
}
