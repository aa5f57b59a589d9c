"""openai-python: create, stream, parse and a tool's round trip, in both of its ways."""

import asyncio
import json

from openai import AsyncOpenAI, OpenAI, pydantic_function_tool  # noqa: F401
from pydantic import BaseModel


class City(BaseModel):
    """A city, and how hot it is there."""

    city: str
    degrees: int


WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
ASKED = {"role": "user", "content": "How hot is it in Belém?"}


def one_after_the_other(client):
    created = client.responses.create(model="clients/text", input="Hi", instructions="Be brief.", temperature=0.2)
    with client.responses.stream(model="clients/text", input="Hi") as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_response()
    parsed = client.responses.parse(model="clients/json", input="Hi", text_format=City)
    first = client.responses.create(model="clients/tools", input=[ASKED], tools=[WEATHER])
    (call,) = [item for item in first.output if item.type == "function_call"]
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "32 °C"}
    second = client.responses.create(model="clients/tools", input=[ASKED, *first.output, result], tools=[WEATHER])
    return {
        "created": created.output_text,
        "streamed": streamed.output_text,
        "last": kinds[-1],
        "tokens": streamed.usage.total_tokens,
        "parsed": parsed.output_parsed.model_dump(),
        "called": json.loads(call.arguments),
        "answered": second.output_text,
    }


async def side_by_side(client):
    created, parsed = await asyncio.gather(
        client.responses.create(model="clients/text", input="Hi"),
        client.responses.parse(model="clients/json", input="Hi", text_format=City),
    )
    async with client.responses.stream(model="clients/tools", input=[ASKED], tools=[WEATHER]) as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    (call,) = [item for item in final.output if item.type == "function_call"]
    return {
        "created": created.output_text,
        "parsed": parsed.output_parsed.model_dump(),
        "called": call.parsed_arguments,
        "last": kinds[-1],
    }


async def asynchronously():
    async with AsyncOpenAI() as client:
        return await side_by_side(client)


with OpenAI() as client:
    print(json.dumps({"sync": one_after_the_other(client), "async": asyncio.run(asynchronously())}))
