// On a narrow screen conversations and settings lie beside what is seen, until they are called.

import { at } from "./dom.js";

const SIDES = ["history", "settings"];

const isOpen = (name) => at(name).classList.contains("open");

function open(name) {
  closeSides();
  at(name).classList.add("open");
  at(`show-${name}`).setAttribute("aria-expanded", "true");
  at(name).querySelector(".close-side").focus();
}

/** Put the side away that is open; whether one was. */
export function closeSides() {
  const opened = SIDES.filter(isOpen);
  for (const name of opened) {
    at(name).classList.remove("open");
    at(`show-${name}`).setAttribute("aria-expanded", "false");
    at(`show-${name}`).focus();
  }
  return opened.length > 0;
}

for (const name of SIDES) at(`show-${name}`).addEventListener("click", () => open(name));
for (const close of document.querySelectorAll(".close-side")) close.addEventListener("click", closeSides);
for (const name of ["thread", "welcome"]) at(name).addEventListener("click", closeSides);
