"""litellm's responses, whole, streamed and in its async form."""

import asyncio
import json

import litellm

litellm.suppress_debug_info = True
whole = litellm.responses(model="openai/clients/text", input="Hi")
events = list(litellm.responses(model="openai/clients/text", input="Hi", stream=True))
later = asyncio.run(litellm.aresponses(model="openai/clients/text", input="Hi", max_output_tokens=100))


def text(response):
    return "".join(part.text for item in response.output if item.type == "message" for part in item.content)


print(
    json.dumps(
        {
            "whole": text(whole),
            "streamed": "".join(e.delta for e in events if e.type == "response.output_text.delta"),
            "last": str(getattr(events[-1].type, "value", events[-1].type)),
            "async": text(later),
            "tokens": whole.usage.total_tokens,
        }
    )
)
