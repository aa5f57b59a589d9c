// A failure, as it is shown.

import { element } from "./dom.js";
import { _, number } from "./texts.js";

/** An error in the gateway's own words; where it says when to come back, the seconds that are left. */
export function problem({ message, code, until }) {
  const left = element("span", { role: "timer", "aria-live": "off" });
  const tick = () => {
    const seconds = Math.ceil((until - Date.now()) / 1000);
    left.textContent = seconds > 0 ? _("Try again in {seconds} s.", { seconds: number(seconds) }) : _("You can try again now.");
    if (seconds > 0) setTimeout(() => left.isConnected && tick(), 500);
  };
  if (until) tick();
  return element(
    "div",
    { class: "problem", role: "alert", "aria-atomic": "false" },
    element("p", { class: "plain", dir: "auto" }, message),
    until ? element("p", { class: "wait" }, left) : null,
    code ? element("p", { class: "code-word", dir: "ltr" }, element("a", { href: `/docs#${encodeURIComponent(code)}` }, code)) : null,
  );
}
