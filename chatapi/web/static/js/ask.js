// One question to one model: the request is made, its answer read as it comes, and what both took is measured.

import { Failure, send, unreachable } from "./api.js";
import { routeOf } from "./dialects.js";
import { events } from "./sse.js";
import { _ } from "./texts.js";

/**
 * Ask, and fill `answer` until it is done; `changed` is called whenever there is more to show.
 *
 * At the end answer.status is "done", "stopped" (by `signal`), "cut" (the stream broke; its words are kept) or
 * "failed" (nothing came). Never raises.
 */
export async function ask(path, body, answer, changed, signal) {
  const route = routeOf(path);
  const began = performance.now();
  try {
    const response = await send(path, body, signal);
    readHeaders(answer, response.headers);
    if (response.headers.get("Content-Type")?.startsWith("text/event-stream")) {
      await readStream(route, response, answer, () => {
        if (answer.firstTokenMs === null && hasBegun(answer)) answer.firstTokenMs = performance.now() - began;
        changed();
      });
    } else {
      route.whole(answer, await response.json());
    }
    answer.status = "done";
  } catch (error) {
    end(answer, error, signal);
  }
  answer.totalMs = performance.now() - began;
  changed();
}

async function readStream(route, response, answer, changed) {
  answer.status = "streaming";
  try {
    // To the end of the body, though its last event was the end of the answer: to leave earlier would be a hang-up.
    for await (const event of events(response.body)) {
      if (answer.ended) continue;
      route.event(answer, event);
      changed();
    }
  } catch (error) {
    if (answer.ended) return;
    throw error instanceof TypeError ? unreachable() : error; // how a broken connection shows
  }
  if (!answer.ended) throw new Failure(_("The connection ended before the answer did."));
}

function readHeaders(answer, headers) {
  answer.requestId = headers.get("X-Request-Id") ?? "";
  answer.timing = headers.get("Server-Timing") ?? "";
  answer.usageSource = headers.get("X-Usage-Source") ?? "";
  answer.ignored = headers.get("X-Ignored-Fields") ?? "";
}

function hasBegun({ text, reasoning, tools }) {
  return Boolean(text || reasoning || tools.length);
}

function end(answer, error, signal) {
  if (signal.aborted) {
    answer.status = "stopped";
    return;
  }
  const known = error instanceof Failure ? error : new Failure(_("The answer cannot be read: {why}", { why: error.message }));
  answer.status = hasBegun(answer) ? "cut" : "failed";
  if (known.headers.has("X-Request-Id")) readHeaders(answer, known.headers);
  const until = known.retryAfterS === null ? null : Date.now() + known.retryAfterS * 1000;
  answer.error = { message: known.message, code: known.code, until };
}
