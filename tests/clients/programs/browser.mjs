// What a page does with the SDKs, bundled for browsers: each function gives what the page would show.
import { ChatOpenAI } from "@langchain/openai";
import OpenAI from "openai";

const messages = [{ role: "user", content: "hi there" }];

function openai({ baseURL, apiKey }) {
  return new OpenAI({ baseURL, apiKey, maxRetries: 0, dangerouslyAllowBrowser: true });
}

function langchain({ baseURL, apiKey, model }) {
  const configuration = { baseURL, dangerouslyAllowBrowser: true };
  return new ChatOpenAI({ model, apiKey, maxRetries: 0, useResponsesApi: false, configuration });
}

async function joined(stream, textOf) {
  const pieces = [];
  for await (const chunk of stream) pieces.push(textOf(chunk));
  return { text: pieces.join(""), pieces: pieces.filter(Boolean).length };
}

async function failing(promise) {
  try {
    await promise;
    return null;
  } catch (error) {
    return { status: error.status, code: error.code, message: error.message, requestId: error.requestID ?? null };
  }
}

window.sdks = {
  openai: {
    whole: async (at) =>
      (await openai(at).chat.completions.create({ model: at.model, messages })).choices[0].message.content,
    stream: async (at) =>
      joined(
        await openai(at).chat.completions.create({ model: at.model, messages, stream: true }),
        (chunk) => chunk.choices[0]?.delta?.content,
      ),
    failing: (at) => failing(openai(at).chat.completions.create({ model: at.model, messages })),
  },
  langchain: {
    whole: async (at) => (await langchain(at).invoke("hi there")).content,
    stream: async (at) => joined(await langchain(at).stream("hi there"), (chunk) => chunk.content),
    failing: (at) => failing(langchain(at).invoke("hi there")),
  },
};
