// The reference's examples, run in place: the answer is shown as it comes, with its status and time.

import { key, unreachable } from "./api.js";
import { at, element } from "./dom.js";
import { _, language } from "./texts.js";

const MAX_SHOWN = 20_000; // characters

at("key").value = key.get();
at("key").addEventListener("input", (event) => key.set(event.target.value.trim()));
at("key-form").addEventListener("submit", (event) => event.preventDefault());

for (const box of document.querySelectorAll(".try")) {
  const run = box.querySelector(".run");
  const stop = box.querySelector(".stop");
  run.addEventListener("click", async () => {
    const leaving = new AbortController();
    stop.onclick = () => leaving.abort();
    run.disabled = true;
    stop.hidden = false;
    try {
      await show(box, leaving.signal);
    } finally {
      run.disabled = false;
      stop.hidden = true;
    }
  });
}

async function show(box, signal) {
  const result = box.querySelector(".result");
  const began = performance.now();
  const head = element("p", { class: "hint" }, "…");
  const text = element("pre", { tabindex: "0" });
  result.replaceChildren(head, text);
  result.classList.remove("failed");
  try {
    const response = await fetch(box.dataset.path, { ...request(box), signal, cache: "no-store" });
    const say = () => {
      const ms = Math.round(performance.now() - began);
      head.textContent = _("Status {status} after {ms} ms, request {id}", { status: response.status, ms, id: response.headers.get("X-Request-Id") ?? "–" });
    };
    say();
    result.classList.toggle("failed", !response.ok);
    await read(response, text, say);
  } catch (error) {
    if (signal.aborted) {
      head.append(" · ", _("Stopped.")); // what has come stays
      return;
    }
    result.classList.add("failed");
    text.append(text.textContent ? "\n" : "", unreachable().message);
  }
}

function request(box) {
  const headers = { "Accept-Language": language };
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  const written = box.querySelector("textarea");
  if (!written) return { method: box.dataset.method, headers };
  headers["Content-Type"] = "application/json";
  let body = written.value;
  if (box.querySelector(".as-stream")?.checked) {
    try {
      body = JSON.stringify({ ...JSON.parse(body), stream: true });
    } catch {
      // The gateway says what is wrong with it.
    }
  }
  return { method: box.dataset.method, headers, body };
}

async function read(response, text, say) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let found = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    found = (found + value).slice(0, MAX_SHOWN);
    text.textContent = found;
    text.scrollTop = text.scrollHeight;
    say();
  }
  if (response.headers.get("Content-Type")?.startsWith("application/json")) {
    try {
      text.textContent = JSON.stringify(JSON.parse(found), null, 2);
    } catch {
      // Shown as it came.
    }
  }
}
