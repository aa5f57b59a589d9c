// Where a person writes: the words, the pictures with them, and an earlier turn that is being changed.

import { at, element } from "./dom.js";
import { _ } from "./texts.js";

const DRAFT = "chatapi:draft";
const READ_BY_MODELS = ["image/png", "image/jpeg", "image/webp", "image/gif"];
const AS_IT_IS = 1_000_000; // bytes; a larger picture is made smaller before it goes out
const LONGEST_SIDE = 2048;

export class Composer {
  /** `send` is given {text, images}; `say` shows a person what did not work. */
  constructor({ send, say }) {
    this.input = at("message");
    this.thumbs = at("images");
    this.say = say;
    this.images = [];
    this.input.value ||= sessionStorage.getItem(DRAFT) ?? ""; // somebody may have begun to write
    at("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      const given = { text: this.input.value, images: this.images };
      if (given.text.trim() || given.images.length) send(given);
      this.input.focus();
    });
    this.input.addEventListener("input", () => this.resize());
    this.input.addEventListener("keydown", (event) => {
      // On a touch screen the return key makes a line; so it does while an input method is composing.
      const sends = event.key === "Enter" && !event.shiftKey && !event.isComposing && matchMedia("(pointer: fine)").matches;
      if (sends || (event.key === "Enter" && (event.ctrlKey || event.metaKey))) {
        event.preventDefault();
        at("composer").requestSubmit();
      }
    });
    at("image").addEventListener("change", (event) => {
      this.add([...event.target.files]);
      event.target.value = "";
    });
    this.input.addEventListener("paste", (event) => {
      const files = [...event.clipboardData.files];
      if (files.length) event.preventDefault();
      this.add(files);
    });
    this.acceptDrops(at("chat"));
    this.resize();
  }

  acceptDrops(home) {
    const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
    home.addEventListener("dragover", (event) => {
      if (!carriesFiles(event)) return;
      event.preventDefault();
      home.classList.add("dropping");
    });
    home.addEventListener("dragleave", (event) => {
      if (!home.contains(event.relatedTarget)) home.classList.remove("dropping");
    });
    home.addEventListener("drop", (event) => {
      home.classList.remove("dropping");
      if (!carriesFiles(event)) return;
      event.preventDefault();
      this.add([...event.dataTransfer.files]);
    });
  }

  async add(files) {
    for (const file of files) {
      try {
        this.images = [...this.images, await picture(file)];
      } catch {
        this.say(_("{file} is no picture that models read: PNG, JPEG, WebP or GIF.", { file: file.name }));
      }
    }
    this.showImages();
  }

  showImages() {
    this.thumbs.replaceChildren(
      ...this.images.map((url, at) => {
        const remove = () => {
          this.images = this.images.filter((_image, other) => other !== at);
          this.showImages();
          this.input.focus();
        };
        return element(
          "li",
          {},
          element("img", { src: url, alt: _("Picture {number}", { number: at + 1 }) }),
          element("button", { type: "button", class: "icon", "aria-label": _("Take picture {number} away", { number: at + 1 }), onclick: remove }, "×"),
        );
      }),
    );
    this.thumbs.hidden = !this.images.length;
  }

  /** What stands in the box from now on. */
  fill({ text = "", images = [] } = {}) {
    this.input.value = text;
    this.images = [...images];
    this.showImages();
    this.resize();
  }

  get draft() {
    return { text: this.input.value, images: this.images };
  }

  resize() {
    sessionStorage.setItem(DRAFT, this.input.value);
    this.input.style.height = "auto";
    this.input.style.height = `${Math.min(this.input.scrollHeight + 2, innerHeight * 0.35)}px`;
  }
}

/** A picture's file as a data URL that a model reads. Raises where it is none. */
async function picture(file) {
  if (!READ_BY_MODELS.includes(file.type)) throw new TypeError(file.type);
  const bitmap = await createImageBitmap(file);
  if (file.size <= AS_IT_IS) return dataUrl(file);
  const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = element("canvas", { width: Math.round(bitmap.width * scale), height: Math.round(bitmap.height * scale) });
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/jpeg", 0.85);
}

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
