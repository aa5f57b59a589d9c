// Elements, made and found. Text is always set as text: nothing here reads HTML.

/** An element with these attributes (`on…` are listeners, true and false set and leave out) and children. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

/** The element with this id. */
export function at(id) {
  return document.getElementById(id);
}

/** A small button with words on it. */
export function button(words, onclick, attributes = {}) {
  return element("button", { type: "button", class: "quiet small", onclick, ...attributes }, words);
}
