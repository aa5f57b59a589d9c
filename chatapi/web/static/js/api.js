// Requests to the gateway that served this page, and what can go wrong with them.

import { _, language } from "./texts.js";

const KEY = "chatapi:key";

/** The API key of this tab: kept while the tab lives, and nowhere else. */
export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** A failure as a person reads it: the gateway's own words, wherever it has said some. */
export class Failure extends Error {
  /** `code` is one of the gateway's; what happened on the way to it, or in the page, has none. */
  constructor(message, { code = "", headers = new Headers() } = {}) {
    super(message);
    this.code = code;
    this.headers = headers;
  }

  /** Of an error object, as each dialect has it in a body or in the last event of a stream. */
  static of(error, headers) {
    return new Failure(error.message || _("The gateway gave no reason."), { code: error.reason ?? error.code ?? "", headers });
  }

  /** When to come back, in seconds; null where that is not known. */
  get retryAfterS() {
    const seconds = Number(this.headers.get("Retry-After") ?? NaN);
    return Number.isFinite(seconds) ? seconds : null;
  }

  get needsKey() {
    return ["missing_api_key", "invalid_api_key", "admin_required"].includes(this.code);
  }
}

/** The gateway's response, its status a success. Raises Failure, or AbortError where `signal` says so. */
export async function send(path, body, signal) {
  const headers = { "Accept-Language": language };
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  if (body) headers["Content-Type"] = "application/json";
  let response;
  try {
    const method = body ? "POST" : "GET";
    response = await fetch(path, { method, headers, body: body && JSON.stringify(body), signal, cache: "no-store" });
  } catch (error) {
    throw error.name === "AbortError" ? error : unreachable();
  }
  if (!response.ok) throw await failure(response);
  return response;
}

/** What is said when the network, not the gateway, has failed. */
export function unreachable() {
  const words = navigator.onLine
    ? _("The gateway cannot be reached. Check that it is running, then try again; nothing you wrote is lost.")
    : _("There is no network. Try again when you are connected; nothing you wrote is lost.");
  return new Failure(words);
}

async function failure(response) {
  const { status, headers } = response;
  try {
    return Failure.of((await response.json()).error, headers);
  } catch {
    return new Failure(_("Something in front of the gateway answered with status {status}.", { status }), { headers });
  }
}
