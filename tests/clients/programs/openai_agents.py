"""openai-agents with its own settings: a tool's round trip, whole and streamed, and an answer of a type."""

import asyncio
import json

from agents import Agent, OpenAIProvider, RunConfig, Runner, function_tool, set_tracing_disabled
from pydantic import BaseModel

set_tracing_disabled(True)
asked = []


class City(BaseModel):
    """A city, and how hot it is there."""

    city: str
    degrees: int


@function_tool
def weather(city: str) -> str:
    """The weather in a city."""
    asked.append(city)
    return "32 °C"


async def main():
    # Its default provider takes what stands before a slash in a model's name for a provider's.
    config = RunConfig(model_provider=OpenAIProvider())
    agent = Agent(name="Forecast", instructions="Be brief.", model="clients/tools", tools=[weather])
    whole = await Runner.run(agent, "How hot is it in Belém?", run_config=config)
    streamed = Runner.run_streamed(agent, "How hot is it in Belém?", run_config=config)
    kinds = [event.data.type async for event in streamed.stream_events() if event.type == "raw_response_event"]
    typed = Agent(name="City", model="clients/json", output_type=City)
    city = await Runner.run(typed, "Where?", run_config=config)
    return {
        "whole": whole.final_output,
        "streamed": streamed.final_output,
        "deltas": kinds.count("response.output_text.delta"),
        "asked": asked,
        "typed": city.final_output.model_dump(),
    }


print(json.dumps(asyncio.run(main())))
