// The box for the API key: among the settings, and where it is missed, there.

import { key } from "./api.js";
import { at } from "./dom.js";

export class KeyBox {
  /** `changed` is called when there is another key. */
  constructor(changed) {
    this.box = at("key-box");
    this.input = at("key");
    this.input.value = key.get();
    this.input.addEventListener("input", () => key.set(this.input.value.trim()));
    this.input.addEventListener("change", changed);
    // A form, so that password managers and the return key know what it is; it goes nowhere.
    this.box.addEventListener("submit", (event) => {
      event.preventDefault();
      this.input.blur();
    });
  }

  /** Ask for the key within `home`. */
  ask(home) {
    home.append(this.box);
    this.box.classList.add("wanted");
    this.input.focus();
  }

  /** Back among the settings; with `within`, only if it is there. */
  putAway(within = document) {
    if (!within.contains(this.box)) return;
    at("key-home").append(this.box);
    this.box.classList.remove("wanted");
  }
}
