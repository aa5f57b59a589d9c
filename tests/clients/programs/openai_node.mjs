// openai-node: create, stream, parse and a tool's round trip.
import OpenAI from "openai";
import { zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const client = new OpenAI();
const created = await client.responses.create({ model: "clients/text", input: "Hi" });

const stream = client.responses.stream({ model: "clients/text", input: "Hi" });
const kinds = [];
for await (const event of stream) kinds.push(event.type);
const streamed = await stream.finalResponse();

const City = z.object({ city: z.string(), degrees: z.number() });
const parsed = await client.responses.parse({
  model: "clients/json",
  input: "Where?",
  text: { format: zodTextFormat(City, "city") },
});

const weather = {
  type: "function",
  name: "weather",
  parameters: { type: "object", properties: { city: { type: "string" } } },
  strict: false,
};
const input = [{ role: "user", content: "How hot is it in Belém?" }];
const first = await client.responses.create({ model: "clients/tools", input, tools: [weather] });
const call = first.output.find((item) => item.type === "function_call");
const result = { type: "function_call_output", call_id: call.call_id, output: "32 °C" };
const second = await client.responses.create({
  model: "clients/tools",
  input: [...input, ...first.output, result],
  tools: [weather],
});

console.log(
  JSON.stringify({
    created: created.output_text,
    streamed: streamed.output_text,
    last: kinds.at(-1),
    parsed: parsed.output_parsed,
    called: JSON.parse(call.arguments),
    answered: second.output_text,
  }),
);
