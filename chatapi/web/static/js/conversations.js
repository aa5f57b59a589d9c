// Conversations: kept in this browser, each under a key of its own; exported and imported as JSON.
//
// A conversation is {id, title, updated, dialect, system, stream, parameters, models, turns}. A turn is what was said,
// {text, images}, and its `answers`, one for each model asked; an answer is what ask.js makes of it.

import { element } from "./dom.js";
import { _ } from "./texts.js";

const PREFIX = "chatapi:conversation:";
const LAST = "chatapi:last"; // the conversation that was shown last, in this browser or (first) in this tab
const FORMAT = "chatapi.conversation";
const TITLE_LENGTH = 60;

const MAX_MODELS = 2;

export function blank({ dialect, system = "", stream = true, parameters = {}, models }) {
  const id = crypto.randomUUID?.() ?? `${Date.now().toString(36)}${Math.random().toString(36).slice(2)}`;
  return { id, title: "", updated: Date.now(), dialect, system, stream, parameters: { ...parameters }, models, turns: [] };
}

export function blankAnswer(model = "") {
  return {
    ...{ status: "waiting", asked: model, model: "", text: "", reasoning: "", tools: [], finish: "", usage: null },
    ...{ others: [], logprobs: [] },
    ...{ usageSource: "", firstTokenMs: null, totalMs: null, requestId: "", timing: "", ignored: "", error: null },
  };
}

function titleOf(conversation) {
  const said = conversation.title || conversation.turns[0]?.text.trim() || _("New conversation");
  return said.length > TITLE_LENGTH ? `${said.slice(0, TITLE_LENGTH).trimEnd()}…` : said;
}

// --- kept in this browser

/** Every conversation in which something was said, the last changed first, as {id, title}. */
export function list() {
  const begun = kept().filter(({ turns }) => turns.length);
  return begun.map((conversation) => ({ id: conversation.id, title: titleOf(conversation) }));
}

function kept() {
  const keys = Object.keys(localStorage).filter((name) => name.startsWith(PREFIX));
  const all = keys.map((name) => load(name.slice(PREFIX.length)));
  return all.filter(Boolean).sort((a, b) => b.updated - a.updated);
}

/** The conversation with this id, or null where there is none that can be read. */
export function load(id) {
  try {
    const found = valid(JSON.parse(localStorage.getItem(PREFIX + id)));
    for (const answer of found.turns.flatMap((turn) => turn.answers)) {
      // The page was closed while it was being written.
      if (answer?.status === "waiting" || answer?.status === "streaming") answer.status = "stopped";
    }
    return { ...found, id };
  } catch {
    return null;
  }
}

export function lastId() {
  return sessionStorage.getItem(LAST) ?? localStorage.getItem(LAST) ?? "";
}

export function remember(id) {
  sessionStorage.setItem(LAST, id);
  try {
    localStorage.setItem(LAST, id);
  } catch {
    // full: this tab knows it at least
  }
}

/** Keep `conversation`; false where the browser has no room for it, even without the pictures of older ones. */
export function save(conversation) {
  const text = JSON.stringify(conversation);
  const older = () => kept().reverse().find((other) => other.id !== conversation.id && hasImages(other));
  for (let other = null; ; other = older()) {
    try {
      if (other) localStorage.setItem(PREFIX + other.id, JSON.stringify(withoutImages(other)));
      localStorage.setItem(PREFIX + conversation.id, text);
      return true;
    } catch {
      if (!older()) return false;
    }
  }
}

function hasImages(conversation) {
  return conversation.turns.some((turn) => turn.images.length);
}

function withoutImages(conversation) {
  return { ...conversation, turns: conversation.turns.map((turn) => ({ ...turn, images: [] })) };
}

export function remove(id) {
  localStorage.removeItem(PREFIX + id);
}

/** Whether a `storage` event of another tab is about conversations. */
export function isAbout(event) {
  return event.key === null || event.key.startsWith(PREFIX);
}

// --- files

export function exportFile(conversation) {
  const text = JSON.stringify({ format: FORMAT, version: 1, conversation }, null, 2);
  const address = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  const name = titleOf(conversation).toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "");
  element("a", { href: address, download: `${name || "conversation"}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** The conversation in a file that was exported, as a new one. Raises Error, in words, for any other file. */
export async function importFile(file) {
  let found;
  try {
    found = JSON.parse(await file.text());
  } catch {
    throw new Error(_("{file} is no conversation: it is not JSON. Choose a file that was exported here.", { file: file.name }));
  }
  try {
    if (found.format !== FORMAT || found.version !== 1) throw new TypeError("format");
    const read = valid(found.conversation);
    return { ...blank(read), title: read.title, turns: read.turns };
  } catch {
    throw new Error(
      _("{file} is no conversation that was exported here. Choose another file.", { file: file.name }),
    );
  }
}

// --- what is read is looked at: a file, and the browser's storage too, may hold anything

function valid(found) {
  const { id = "", title, updated, dialect, system, stream, parameters, models, turns } = record(found);
  return {
    ...{ id: text(id), title: text(title), updated: amount(updated), dialect: text(dialect), system: text(system) },
    stream: stream !== false,
    parameters: Object.fromEntries(Object.entries(record(parameters)).map(([name, value]) => [name, text(value)])),
    models: array(models).slice(0, MAX_MODELS).map(text),
    turns: array(turns).map(validTurn),
  };
}

function validTurn(found) {
  const turn = record(found);
  const answers = array(turn.answers).slice(0, MAX_MODELS);
  return {
    text: text(turn.text),
    images: array(turn.images).map(picture),
    answers: answers.map((answer) => (answer === null ? null : validAnswer(record(answer)))),
  };
}

function validAnswer(found) {
  const answer = blankAnswer();
  for (const name of ["status", "asked", "model", "text", "reasoning", "finish", "usageSource", "requestId", "timing", "ignored"]) {
    answer[name] = text(found[name]);
  }
  for (const name of ["firstTokenMs", "totalMs"]) answer[name] = found[name] === null ? null : amount(found[name]);
  answer.tools = array(found.tools).filter(Boolean).map((tool) => ({ name: text(tool.name), arguments: text(tool.arguments) }));
  answer.others = array(found.others ?? []).map((other) => text(other ?? ""));
  answer.logprobs = array(found.logprobs ?? []).map(validToken);
  answer.usage = found.usage && { prompt: amount(found.usage.prompt), completion: amount(found.usage.completion) };
  answer.error = found.error && { message: text(found.error.message), code: text(found.error.code), until: null };
  return answer;
}

function validToken({ token, logprob, instead }) {
  const others = array(instead).map((other) => ({ token: text(other.token), logprob: amount(other.logprob) }));
  return { token: text(token), logprob: amount(logprob), instead: others };
}

function check(is, value) {
  if (!is) throw new TypeError("no conversation");
  return value;
}

const record = (value) => check(typeof value === "object" && value !== null && !Array.isArray(value), value);
const array = (value) => check(Array.isArray(value), value);
const text = (value) => check(typeof value === "string", value);
const amount = (value) => check(Number.isFinite(value), value);
const picture = (value) => check(/^data:image\/(?:png|jpeg|webp|gif);base64,[\w+/=]*$/.test(text(value)), value);
