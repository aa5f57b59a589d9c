// The playground: the page's parts, put together around the one conversation that is shown.

import { Failure, key } from "./api.js";
import { ask } from "./ask.js";
import { Composer } from "./composer.js";
import * as conversations from "./conversations.js";
import { routeOf } from "./dialects.js";
import { at, button, element } from "./dom.js";
import { ModelPicker, fetchModels } from "./models.js";
import { Settings } from "./settings.js";
import { Snippets } from "./snippets.js";
import { _ } from "./texts.js";
import { Thread, problem } from "./thread.js";

const page = JSON.parse(at("playground").textContent);
const SAVE_EVERY_MS = 1000;

const keyBox = at("key-box");
let conversation;
let rows = [];
let asking = null; // an AbortController while answers are on their way
let editing = null; // the turn that the next words will replace, and what stood in the box before
let lastRequest = null;

const thread = new Thread(at("thread"), { edit, remove, retry, removeAnswer }, () => rows);
const settings = new Settings(page.dialects, page.dialect, changed);
const composer = new Composer({ send, say });
const snippets = new Snippets(() => lastRequest ?? nextRequest());
const pickers = [0, 1].map((column) => new ModelPicker(column, (model) => choose(column, model)));

// --- conversations

function show(next) {
  asking?.abort();
  leaveEdit(false);
  if (conversation && conversation.id !== next.id && !conversation.turns.length) conversations.remove(conversation.id);
  conversation = next;
  lastRequest = null;
  if (!conversation.models[0]) conversation.models = [firstModel()];
  conversations.remember(conversation.id);
  settings.show(conversation);
  showModels();
  draw();
}

function draw() {
  if (at("thread").contains(keyBox)) askForKey(null);
  thread.draw(conversation);
  at("welcome").hidden = conversation.turns.length > 0;
  drawList();
}

function drawList() {
  const known = conversations.list();
  const items = known.map(({ id, title }) => {
    const current = id === conversation.id;
    const link = element("a", { href: `#${id}`, "aria-current": current && "true", dir: "auto" }, title);
    const away = () => forget(id);
    const words = _("Forget this conversation");
    return element("li", {}, link, element("button", { type: "button", class: "quiet icon", title: words, "aria-label": words, onclick: away }, "×"));
  });
  at("conversations").replaceChildren(...items);
  at("no-conversations").hidden = items.length > 0;
}

function fresh() {
  const { dialect, system, stream, parameters, models } = conversation ?? { dialect: page.dialect, models: [""] };
  return conversations.blank({ dialect, system, stream, parameters, models: [...models] });
}

function start() {
  show(fresh());
  location.hash = "";
  at("message").focus();
  closeSides();
}

function forget(id) {
  const kept = conversations.load(id);
  conversations.remove(id);
  if (id === conversation.id) start();
  else drawList();
  say(_("The conversation is forgotten."), {
    words: _("Keep it after all"),
    action: () => {
      conversations.save(kept);
      show(kept);
    },
  });
}

/** Keep the conversation as it is now. */
function changed() {
  conversation.updated = Date.now();
  if (!conversations.save(conversation)) {
    say(_("This conversation no longer fits into the browser's storage. Export it, or forget older ones."));
  }
}

// --- models

function firstModel() {
  if (page.embedded) return page.embedded;
  const chat = rows.find(({ task }) => !task || task === "chat-completion") ?? rows[0];
  return chat?.id ?? "";
}

function choose(column, model) {
  conversation.models[column] = model;
  changed();
}

function showModels() {
  const { models } = conversation;
  for (const [column, picker] of pickers.entries()) {
    if (column >= models.length) picker.root.remove();
    else if (!picker.root.isConnected) at("compare").before(picker.root);
    picker.show(models[column] ?? "");
  }
  at("compare").setAttribute("aria-pressed", String(models.length > 1));
  at("chat").classList.toggle("comparing", models.length > 1);
}

at("compare").addEventListener("click", () => {
  const [first, second] = conversation.models;
  const other = rows.find(({ id }) => id !== first)?.id ?? first;
  conversation.models = second === undefined ? [first, other] : [first];
  changed();
  showModels();
  pickers[conversation.models.length - 1].input.focus();
});

async function loadModels() {
  const state = at("models-state");
  if (state.contains(keyBox)) askForKey(null);
  state.replaceChildren(_("Loading the models …"));
  try {
    if (page.locked && !key.get()) throw new Failure(page.locked, { code: "missing_api_key" });
    rows = await fetchModels();
    state.replaceChildren(rows.length ? "" : _("The gateway lists no models. Write the id of one above."));
    askForKey(null);
  } catch (failure) {
    state.replaceChildren(problem(failure));
    if (failure.needsKey) askForKey(state);
    else state.append(button(_("Load the list again"), loadModels));
  }
  for (const picker of pickers) picker.know(rows);
  if (pickers[0].value || !rows.length) return; // somebody is writing, or has chosen
  choose(0, firstModel());
  showModels();
}

/** Put the key's box where it is wanted; null: where it is when nobody misses it. */
function askForKey(home) {
  keyBox.classList.toggle("wanted", home !== null);
  (home ?? at("key-home")).append(keyBox);
  if (home) at("key").focus();
}

at("key").value = key.get();
at("key").addEventListener("input", () => key.set(at("key").value.trim()));
at("key").addEventListener("change", loadModels);
keyBox.addEventListener("submit", (event) => {
  event.preventDefault(); // a form, so that password managers and the return key know what it is
  at("key").blur();
});

// --- asking

function send(given) {
  if (asking) return;
  if (editing) conversation.turns.splice(editing.at);
  leaveEdit(false);
  conversation.turns.push({ ...given, answers: [] });
  composer.fill();
  answerTurn(conversation.turns.length - 1, conversation.models.keys());
}

function retry(turn, column) {
  if (!asking) answerTurn(turn, [column]);
}

/** Ask the models of these columns what they say at turn `index`. */
async function answerTurn(index, columns) {
  const turn = conversation.turns[index];
  const asked = conversation;
  const abort = new AbortController();
  const jobs = [...columns].map((column) => {
    const model = pickers[Math.min(column, asked.models.length - 1)].value;
    const body = bodyFor(asked, index, column, model);
    turn.answers[column] = conversations.blankAnswer(model);
    return { body, answer: turn.answers[column] };
  });
  // A hole in the array, where only the second of two was asked, would not survive being kept.
  for (let column = 0; column < turn.answers.length; column += 1) turn.answers[column] ??= null;
  lastRequest = { path: asked.dialect, body: jobs[0].body };
  setAsking(abort);
  changed();
  draw();
  snippets.refresh();
  announce(_("Waiting for the answer."));
  let savedAt = Date.now();
  const shown = (answer) => {
    thread.update(answer);
    if (Date.now() - savedAt > SAVE_EVERY_MS) {
      savedAt = Date.now();
      conversations.save(asked);
    }
  };
  await Promise.all(jobs.map(({ body, answer }) => ask(asked.dialect, body, answer, () => shown(answer), abort.signal)));
  conversations.save(asked);
  if (asking === abort) setAsking(null);
  const { error } = jobs.find(({ answer }) => answer.error)?.answer ?? {};
  if (!error) announce(_("The answer is complete."));
  if (isAboutKey(error)) askForKey(thread.views.get(jobs.find(({ answer }) => answer.error).answer)?.problem ?? null);
  drawList();
}

const isAboutKey = (error) => error && ["missing_api_key", "invalid_api_key"].includes(error.code);

function bodyFor(asked, index, column, model) {
  const messages = asked.turns.slice(0, index + 1).flatMap((turn, at) => {
    const said = { role: "user", text: turn.text, images: turn.images };
    const answer = turn.answers[column]?.text || turn.answers[0]?.text;
    return at < index && answer ? [said, { role: "assistant", text: answer, images: [] }] : [said];
  });
  const { system, stream, dialect } = asked;
  return routeOf(dialect).body({ system: system.trim(), messages, model, stream, parameters: settings.values() });
}

/** What Send would send now. */
function nextRequest() {
  const draft = composer.draft.text || composer.draft.images.length ? composer.draft : { text: _("Hello!"), images: [] };
  const turns = [...conversation.turns, { ...draft, answers: [] }];
  return { path: conversation.dialect, body: bodyFor({ ...conversation, turns }, turns.length - 1, 0, pickers[0].value) };
}

function setAsking(abort) {
  asking = abort;
  at("stop").hidden = !abort;
  at("send").hidden = Boolean(abort);
}

at("stop").addEventListener("click", () => {
  asking?.abort();
  at("message").focus();
});

// --- changing what has been said

function edit(index) {
  editing ??= { draft: composer.draft };
  editing.at = index;
  composer.fill(conversation.turns[index]);
  at("editing").hidden = false;
  at("message").focus();
}

/** Stop changing an earlier turn; `restore` what had been written before it. */
function leaveEdit(restore) {
  if (!editing) return;
  if (restore) composer.fill(editing.draft);
  editing = null;
  at("editing").hidden = true;
}

at("edit-leave").addEventListener("click", () => leaveEdit(true));

function remove(index) {
  undoable(() => conversation.turns.splice(index, 1));
}

function removeAnswer(index, column) {
  undoable(() => (conversation.turns[index].answers[column] = null));
}

function undoable(change) {
  asking?.abort();
  leaveEdit(true);
  const [whole, before] = [conversation, structuredClone(conversation.turns)];
  change();
  changed();
  draw();
  say(_("Deleted."), {
    words: _("Undo"),
    action: () => {
      whole.turns = before;
      conversations.save(whole);
      show(whole);
    },
  });
}

// --- files, notices, and what happens around the page

at("new").addEventListener("click", start);
at("export").addEventListener("click", () => conversations.exportFile(conversation));
at("import").addEventListener("change", async (event) => {
  const [file] = event.target.files;
  event.target.value = "";
  if (!file) return;
  try {
    const read = await conversations.importFile(file);
    if (!settings.dialects.some(({ path }) => path === read.dialect)) read.dialect = page.dialect;
    conversations.save(read);
    show(read);
    location.hash = read.id;
    closeSides();
  } catch (error) {
    say(error.message);
  }
});

/** Tell a person something, with a button that does something about it. */
function say(message, { words, action } = {}) {
  const close = button(_("Close"), () => notice.remove());
  const does = words && button(words, () => (notice.remove(), action()));
  const notice = element("div", { class: "notice", role: "alert" }, element("p", { dir: "auto" }, message), does, close);
  at("notices").replaceChildren(notice);
  if (words) setTimeout(() => notice.remove(), 10_000);
}

function announce(words) {
  at("announcer").textContent = words;
}

// On a narrow screen conversations and settings lie beside what is seen, until they are called.

const SIDES = ["history", "settings"];

for (const name of SIDES) {
  at(`show-${name}`).addEventListener("click", () => {
    closeSides();
    at(name).classList.add("open");
    at(`show-${name}`).setAttribute("aria-expanded", "true");
    at(name).querySelector(".close-side").focus();
  });
}

function closeSides() {
  for (const name of SIDES.filter((side) => at(side).classList.contains("open"))) {
    at(name).classList.remove("open");
    at(`show-${name}`).setAttribute("aria-expanded", "false");
    at(`show-${name}`).focus();
  }
}

for (const close of document.querySelectorAll(".close-side")) close.addEventListener("click", closeSides);
at("thread").addEventListener("click", closeSides);
at("welcome").addEventListener("click", closeSides);

addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (SIDES.some((name) => at(name).classList.contains("open"))) closeSides();
  else if (asking) asking.abort();
  else leaveEdit(true);
});

for (const suggestion of document.querySelectorAll(".suggestion")) {
  suggestion.addEventListener("click", () => {
    composer.fill({ text: suggestion.textContent });
    at("message").focus();
  });
}

addEventListener("hashchange", () => {
  const id = location.hash.slice(1);
  const next = id && id !== conversation.id && conversations.load(id);
  if (!next) return;
  show(next);
  closeSides();
});
addEventListener("storage", (event) => conversations.isAbout(event) && drawList());
addEventListener("pagehide", () => conversations.save(conversation));
const showNetwork = () => (at("offline").hidden = navigator.onLine);
addEventListener("online", showNetwork);
addEventListener("offline", showNetwork);

showNetwork();
show(conversations.load(location.hash.slice(1)) ?? conversations.load(conversations.lastId()) ?? fresh());
loadModels();
