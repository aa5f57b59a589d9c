"""pydantic-ai with its default for OpenAI: a tool's round trip, a type of answer, and a stream."""

import asyncio
import json

from pydantic import BaseModel
from pydantic_ai import Agent

asked = []


class City(BaseModel):
    """A city, and how hot it is there."""

    city: str
    degrees: int


agent = Agent("openai:clients/tools", instructions="Be brief.")


@agent.tool_plain
def weather(city: str) -> str:
    """The weather in a city."""
    asked.append(city)
    return "32 °C"


async def main():
    whole = await agent.run("How hot is it in Belém?")
    async with Agent("openai:clients/text").run_stream("Hi") as stream:
        pieces = [piece async for piece in stream.stream_text(delta=True, debounce_by=None)]
    typed = await Agent("openai:clients/typed", output_type=City).run("Where?")
    return {
        "model": type(agent.model).__name__,
        "whole": whole.output,
        "asked": asked,
        "streamed": "".join(pieces),
        "typed": typed.output.model_dump(),
    }


print(json.dumps(asyncio.run(main())))
