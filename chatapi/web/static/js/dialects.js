// The four routes: what each is sent for the same conversation, and how its answers are read.

import { Failure } from "./api.js";
import { _ } from "./texts.js";

/** A request: {system, messages: [{role, text, images}], model, stream, parameters: {name: value}}. */
const ROUTES = {
  "/api/huggingface-chat": { body: legacy, event: chunk, whole: envelope },
  "/api/chat/completions": { body: chat, event: chunk, whole: envelope },
  "/v1/chat/completions": { body: openai, event: chunk, whole: completion },
  "/v1/responses": { body: responses, event: responseEvent, whole: response },
};

export const routeOf = (path) => ROUTES[path] ?? ROUTES["/v1/chat/completions"];

// --- requests

function legacy({ messages, model, stream, parameters }) {
  return { message: messages.at(-1).text, model, ...(stream && { stream }), ...parameters };
}

function chat({ system, messages, model, stream, parameters }) {
  const all = system ? [{ role: "system", text: system, images: [] }, ...messages] : messages;
  return { model, messages: all.map(chatMessage), ...(stream && { stream }), ...parameters };
}

function openai(request) {
  return { ...chat(request), ...(request.stream && { stream_options: { include_usage: true } }) };
}

function chatMessage({ role, text, images }) {
  if (!images.length) return { role, content: text };
  const pictures = images.map((url) => ({ type: "image_url", image_url: { url } }));
  return { role, content: text ? [{ type: "text", text }, ...pictures] : pictures };
}

function responses({ system, messages, model, stream, parameters }) {
  const { "reasoning.effort": effort, ...rest } = parameters;
  const include = rest.top_logprobs !== undefined && [LOGPROBS]; // else they are not answered
  const only = messages.length === 1 && !messages[0].images.length;
  return {
    model,
    ...(system && { instructions: system }),
    input: only ? messages[0].text : messages.map(responsesItem),
    ...(stream && { stream }),
    ...(effort && { reasoning: { effort } }),
    ...(include && { include }),
    ...rest,
  };
}

const LOGPROBS = "message.output_text.logprobs";

function responsesItem({ role, text, images }) {
  if (!images.length) return { role, content: text };
  const pictures = images.map((url) => ({ type: "input_image", image_url: url }));
  return { role, content: text ? [{ type: "input_text", text }, ...pictures] : pictures };
}

// --- answers: each reader adds to `answer` {text, others, logprobs, reasoning, tools, model, usage,
// finish, ended}

function add(answer, { content, refusal, reasoning_content, reasoning, tool_calls } = {}) {
  const thought = reasoning_content ?? reasoning;
  if (typeof content === "string") answer.text += content;
  if (typeof refusal === "string") answer.text += refusal;
  if (typeof thought === "string") answer.reasoning += thought;
  for (const [at, call] of (Array.isArray(tool_calls) ? tool_calls : []).entries()) {
    const known = (answer.tools[call.index ?? at] ??= { name: "", arguments: "" });
    known.name += call.function?.name ?? "";
    known.arguments += call.function?.arguments ?? "";
  }
}

/** What `choice`, of a chunk or whole, says: of the first one everything, of those after it the text. */
function addChoice(answer, { index = 0, delta, message, logprobs, finish_reason: finish }) {
  const said = delta ?? message;
  if (index > 0) {
    answer.others[index - 1] = (answer.others[index - 1] ?? "") + (said?.content ?? said?.refusal ?? "");
    return;
  }
  answer.finish = finish ?? answer.finish;
  add(answer, said);
  addLogprobs(answer, logprobs?.content);
}

function addLogprobs(answer, found) {
  for (const { token, logprob, top_logprobs: top } of Array.isArray(found) ? found : []) {
    const instead = (top ?? []).map((one) => ({ token: one.token, logprob: one.logprob }));
    answer.logprobs.push({ token, logprob, instead });
  }
}

function count(answer, usage) {
  if (!usage) return;
  const prompt = usage.prompt_tokens ?? usage.input_tokens;
  answer.usage = { prompt, completion: usage.completion_tokens ?? usage.output_tokens };
}

function chunk(answer, { data }) {
  if (data === "[DONE]") {
    answer.ended = true;
    return;
  }
  const found = JSON.parse(data);
  if (found.error) throw Failure.of(found.error);
  answer.model = found.model ?? answer.model;
  for (const choice of found.choices ?? []) addChoice(answer, choice);
  count(answer, found.usage);
}

function envelope(answer, { data }) {
  answer.text = data.response || data.refusal || "";
  answer.model = data.model;
  answer.finish = data.finish_reason ?? "";
  count(answer, data.usage);
}

function completion(answer, { model, choices, usage }) {
  answer.model = model;
  for (const choice of choices) addChoice(answer, choice);
  count(answer, usage);
}

function response(answer, found) {
  if (found.error) throw Failure.of(found.error);
  for (const item of found.output ?? []) {
    const said = (item.content ?? []).map((part) => part.text ?? part.refusal ?? "").join("");
    if (item.type === "reasoning") answer.reasoning += said;
    if (item.type === "message") {
      answer.text += said;
      for (const part of item.content ?? []) addLogprobs(answer, part.logprobs);
    }
    if (item.type === "function_call") answer.tools.push({ name: item.name, arguments: item.arguments });
  }
  settle(answer, found);
}

const FINISH_OF = { max_output_tokens: "length" };

function settle(answer, { model, usage, status, incomplete_details: why }) {
  answer.model = model ?? answer.model;
  answer.finish = FINISH_OF[why?.reason] ?? why?.reason ?? (status === "completed" ? "stop" : answer.finish);
  count(answer, usage);
}

function responseEvent(answer, { data }) {
  const found = JSON.parse(data);
  if (found.error) throw Failure.of(found.error);
  switch (found.type) {
    case "response.output_text.delta":
    case "response.refusal.delta":
      answer.text += found.delta;
      addLogprobs(answer, found.logprobs);
      break;
    case "response.reasoning_text.delta":
      answer.reasoning += found.delta;
      break;
    case "response.output_item.added":
      if (found.item.type === "function_call") {
        answer.tools[found.output_index] = { name: found.item.name, arguments: found.item.arguments ?? "" };
      }
      break;
    case "response.function_call_arguments.delta":
      if (answer.tools[found.output_index]) answer.tools[found.output_index].arguments += found.delta;
      break;
    case "response.completed":
    case "response.incomplete":
      settle(answer, found.response);
      answer.ended = true;
      break;
    case "response.failed":
      settle(answer, found.response);
      throw Failure.of(found.response.error ?? { message: _("The gateway gave no reason.") });
  }
}
