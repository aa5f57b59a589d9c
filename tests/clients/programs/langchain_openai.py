"""langchain-openai with use_responses_api: a tool's round trip, a stream, and an answer of a type."""

import json

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class City(BaseModel):
    """A city, and how hot it is there."""

    city: str
    degrees: int


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"32 °C in {city}"


llm = ChatOpenAI(model="clients/tools", use_responses_api=True).bind_tools([weather])
asked = HumanMessage("How hot is it in Belém?")
first = llm.invoke([asked])
(call,) = first.tool_calls
second = llm.invoke([asked, first, ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])])
chunks = list(ChatOpenAI(model="clients/text", use_responses_api=True).stream("Hi"))
city = ChatOpenAI(model="clients/json", use_responses_api=True).with_structured_output(City).invoke("Where?")
print(
    json.dumps(
        {
            "called": call["args"],
            "answered": second.text,
            "streamed": "".join(chunk.text for chunk in chunks),
            "tokens": second.usage_metadata["total_tokens"],
            "typed": city.model_dump(),
        }
    )
)
