// The playground: the page's parts, put together around the one conversation that is shown.

import { ask } from "./ask.js";
import { Composer } from "./composer.js";
import * as conversations from "./conversations.js";
import { routeOf } from "./dialects.js";
import { at, button, element } from "./dom.js";
import { KeyBox } from "./keybox.js";
import { ModelBar } from "./modelbar.js";
import { Settings } from "./settings.js";
import { closeSides } from "./sides.js";
import { Snippets } from "./snippets.js";
import { _ } from "./texts.js";
import { Thread } from "./thread.js";

const page = JSON.parse(at("playground").textContent);
const SAVE_EVERY_MS = 1000;

let conversation;
let asking = null; // an AbortController while answers are on their way
let editing = null; // {turn: what the next words will replace, draft: what stood in the box before}
let lastRequest = null;

const thread = new Thread(at("thread"), { edit, remove, retry, removeAnswer }, () => modelBar.rows);
const settings = new Settings(page.dialects, page.dialect, changed);
const composer = new Composer({ send, say });
const snippets = new Snippets(() => lastRequest ?? nextRequest());
const keyBox = new KeyBox(() => modelBar.load());
const modelBar = new ModelBar(page, keyBox, (models) => {
  conversation.models = models;
  changed();
});

// --- conversations

function show(next) {
  asking?.abort();
  leaveEdit(false);
  if (conversation && conversation.id !== next.id && !conversation.turns.length) conversations.remove(conversation.id);
  conversation = next;
  lastRequest = null;
  conversations.remember(conversation.id);
  settings.show(conversation);
  modelBar.show(conversation.models);
  draw();
}

function draw() {
  keyBox.putAway(at("thread"));
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

// --- asking

function send(given) {
  if (asking) return;
  if (editing) conversation.turns.splice(conversation.turns.indexOf(editing.turn));
  leaveEdit(false);
  const turn = { ...given, answers: [] };
  conversation.turns.push(turn);
  composer.fill();
  answerTurn(turn, conversation.models.keys());
}

function retry(turn, column) {
  if (!asking) answerTurn(turn, [column]);
}

/** Ask the models of these columns what they say to `turn`. */
async function answerTurn(turn, columns) {
  const asked = conversation;
  const abort = new AbortController();
  const jobs = [...columns].map((column) => {
    const model = modelBar.value(column);
    const body = bodyFor(asked, turn, column, model);
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
  const { answer: failed } = jobs.find(({ answer }) => answer.error) ?? {};
  if (!failed) announce(_("The answer is complete."));
  if (wantsKey(failed)) keyBox.ask(thread.views.get(failed).problem);
  drawList();
}

const wantsKey = (answer) => ["missing_api_key", "invalid_api_key"].includes(answer?.error.code) && thread.views.has(answer);

function bodyFor(asked, last, column, model) {
  const before = asked.turns.slice(0, asked.turns.indexOf(last));
  const messages = before.flatMap(({ text, images, answers }) => {
    const answer = answers[column]?.text || answers[0]?.text;
    return [{ role: "user", text, images }, ...(answer ? [{ role: "assistant", text: answer, images: [] }] : [])];
  });
  messages.push({ role: "user", text: last.text, images: last.images });
  const { system, stream, dialect } = asked;
  return routeOf(dialect).body({ system: system.trim(), messages, model, stream, parameters: settings.values() });
}

/** What Send would send now. */
function nextRequest() {
  const draft = composer.draft.text || composer.draft.images.length ? composer.draft : { text: _("Hello!"), images: [] };
  const turn = { ...draft, answers: [] };
  const asked = { ...conversation, turns: [...conversation.turns, turn] };
  return { path: conversation.dialect, body: bodyFor(asked, turn, 0, modelBar.value(0)) };
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

function edit(turn) {
  editing ??= { draft: composer.draft };
  editing.turn = turn;
  composer.fill(turn);
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

function remove(turn) {
  undoable(() => conversation.turns.splice(conversation.turns.indexOf(turn), 1));
}

function removeAnswer(turn, column) {
  undoable(() => (turn.answers[column] = null));
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
  const notice = element("div", { class: "notice", role: action ? "status" : "alert" }, element("p", { dir: "auto" }, message), does, close);
  at("notices").replaceChildren(notice);
  if (words) setTimeout(() => notice.remove(), 10_000);
}

function announce(words) {
  at("announcer").textContent = words;
}

addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (closeSides()) return;
  if (asking) asking.abort();
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
addEventListener("storage", (event) => {
  if (!conversations.isAbout(event)) return;
  const now = conversations.load(conversation.id);
  if (now && !asking && now.updated > conversation.updated) show(now); // it was carried on in another tab
  else drawList();
});
addEventListener("pagehide", () => asking && conversations.save(conversation));
const showNetwork = () => (at("offline").hidden = navigator.onLine);
addEventListener("online", showNetwork);
addEventListener("offline", showNetwork);

showNetwork();
show(conversations.load(location.hash.slice(1)) ?? conversations.load(conversations.lastId()) ?? fresh());
document.body.classList.add("filled");
modelBar.load();
