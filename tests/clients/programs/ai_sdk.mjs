// The AI SDK with @ai-sdk/openai's default: a tool's round trip, a stream, and an object. Nothing is stored here, and
// so the items are sent again with each step (store: false).
import { openai } from "@ai-sdk/openai";
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const providerOptions = { openai: { store: false } };
const asked = [];
const weather = tool({
  description: "The weather in a city.",
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => {
    asked.push(city);
    return "32 °C";
  },
});
const round = await generateText({
  model: openai("clients/tools"),
  prompt: "How hot is it in Belém?",
  tools: { weather },
  stopWhen: stepCountIs(3),
  providerOptions,
});
let streamed = "";
for await (const piece of streamText({ model: openai("clients/text"), prompt: "Hi" }).textStream) streamed += piece;
const typed = await generateText({
  model: openai("clients/json"),
  prompt: "Where?",
  output: Output.object({ schema: z.object({ city: z.string(), degrees: z.number() }) }),
});

// With its default it refers, in the next turn, to what OpenAI would have stored.
const said = { role: "user", content: "Hi" };
const first = await generateText({ model: openai("clients/text"), messages: [said] });
const messages = [said, ...first.response.messages, said];
const refused = await generateText({ model: openai("clients/text"), messages }).then(
  () => "",
  (error) => error.message,
);
const again = await generateText({
  model: openai("clients/text"),
  messages,
  providerOptions,
});
console.log(
  JSON.stringify({
    answered: round.text,
    asked,
    streamed,
    typed: typed.output,
    tokens: round.usage.totalTokens,
    refused,
    again: again.text,
  }),
);
