"""A request as a command and as programs: curl, Python, and JavaScript for Node.

Any text is safe in them: shells read the body from a here-document whose delimiter is quoted, the languages have it
as their own literals, and what does not print is escaped. The key is read from CHATAPI_API_KEY, which may be empty
where none is needed.
"""

import json
import re
import shlex
from collections.abc import Callable
from typing import Any, NamedTuple

from ..chat import Json

RESPONSES = "/v1/responses"


def snippets(path: str, body: Json, base_url: str) -> dict[str, str]:
    """The request of `body` to `path`, one of the chat routes, as `curl`, `python` and `javascript`.

    curl shows the response; the programs print the answer's text, a stream as it comes, and end with the error
    where there is one.
    """
    return {
        "curl": _curl(path, body, base_url),
        "python": (_python_openai if path.startswith("/v1/") else _python_requests)(path, body, base_url),
        "javascript": _javascript_fetch(path, body, base_url),
    }


def _fill(template: str, **values: str) -> str:
    # In one pass, so that nothing in a value is taken for a placeholder.
    return re.sub("@([a-z_]+)@", lambda found: values[found[1]], template)


# --- literals


READABLE = 50_000  # characters: nobody reads a longer text, and it is escaped the fast way


def _json_literal(value: Any) -> str:
    if isinstance(value, str) and len(value) > READABLE:
        return json.dumps(value)
    return _escape(json.dumps(value, ensure_ascii=False), lambda char: json.dumps(char)[1:-1])


def _python_literal(value: Any) -> str:
    if not isinstance(value, str) or len(value) > READABLE:
        return ascii(value)
    text = value.replace("\\", r"\\").replace('"', r"\"")
    return f'"{_escape(text, lambda char: repr(char)[1:-1])}"'


# What does not show, or changes how its neighbours show: controls, soft and zero-width characters, marks of
# direction, line and paragraph separators, halves of characters, tags.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)


def _escape(text: str, escape: Callable[[str], str]) -> str:
    return _UNSEEN.sub(lambda found: escape(found[0]), text)


def _javascript_key(key: str) -> str:
    # Written plainly, this one name would set the object's prototype.
    return '["__proto__"]' if key == "__proto__" else _json_literal(key)


class _Notation(NamedTuple):
    """How a language writes objects and lists."""

    scalar: Callable[[Any], str]
    key: Callable[[str], str]
    step: str

    def write(self, value: Any, indent: str = "", top: bool = True) -> str:
        """`value` over several lines, but for what has nothing nested in it."""
        if not value or not isinstance(value, dict | list):
            return self.scalar(value)
        inner = indent + self.step
        opening, closing = "{}" if isinstance(value, dict) else "[]"
        children = value.values() if isinstance(value, dict) else value
        items = [self.write(item, inner, False) for item in children]
        if isinstance(value, dict):
            items = [f"{self.key(name)}: {item}" for name, item in zip(value, items, strict=True)]
        if not top and not any(isinstance(item, dict | list) for item in children):
            return f"{opening}{', '.join(items)}{closing}"
        return f"{opening}\n{inner}{f',{chr(10)}{inner}'.join(items)}\n{indent}{closing}"


_JSON = _Notation(_json_literal, _json_literal, "  ")
_PYTHON = _Notation(_python_literal, _python_literal, "    ")
_JAVASCRIPT = _Notation(_json_literal, _javascript_key, "  ")


# --- curl


_CURL = """\
curl @flags@@url@ \\
  -H "Authorization: Bearer $CHATAPI_API_KEY" \\
  -H 'Content-Type: application/json' \\
  -d @- <<'JSON'
@body@
JSON
"""


def _curl(path: str, body: Json, base_url: str) -> str:
    flags = "-N " if body.get("stream") else ""
    return _fill(_CURL, flags=flags, url=shlex.quote(base_url + path), body=_JSON.write(body))


# --- Python

_REQUESTS = """\
@imports@

import requests

response = requests.post(
    @url@,
    headers={"Authorization": f"Bearer {os.environ.get('CHATAPI_API_KEY', '')}"},
    json=@body@,
@stream@)
if not response.ok:
    raise SystemExit(response.text)
@then@"""
_PRINT_RESPONSE_LINES = """\
for line in response.iter_lines(chunk_size=None):
    if line.startswith(b"data: {"):
        event = json.loads(line.removeprefix(b"data: "))
        if "error" in event:
            raise SystemExit(event["error"]["message"])
        for choice in event["choices"]:
            print(choice["delta"].get("content") or "", end="", flush=True)
print()
"""


def _python_requests(path: str, body: Json, base_url: str) -> str:
    streams = bool(body.get("stream"))
    return _fill(
        _REQUESTS,
        imports="import json\nimport os" if streams else "import os",
        url=_python_literal(base_url + path),
        body=_PYTHON.write(body, "    "),
        stream="    stream=True,\n" if streams else "",
        then=_PRINT_RESPONSE_LINES if streams else 'print(response.json()["data"]["response"])\n',
    )


_OPENAI_SDK = """\
import os

from openai import OpenAI

client = OpenAI(base_url=@url@, api_key=os.environ.get("CHATAPI_API_KEY") or "none")
@result@ = client.@method@(
@arguments@)
@then@"""
_THEN = {
    ("chat.completions.create", False): 'print(completion.choices[0].message.content or "")\n',
    ("chat.completions.create", True): """\
for chunk in stream:
    for choice in chunk.choices:
        print(choice.delta.content or "", end="", flush=True)
print()
""",
    ("responses.create", False): "print(response.output_text)\n",
    ("responses.create", True): """\
for event in stream:
    if event.type == "response.output_text.delta":
        print(event.delta, end="", flush=True)
    elif event.type == "response.failed":
        raise SystemExit(event.response.error.message)
print()
""",
}
# What the SDK's methods have had arguments for since long; all else goes into `extra_body`.
_BOTH = "metadata model parallel_tool_calls stream stream_options temperature tool_choice tools top_logprobs top_p user"
ARGUMENTS = {
    "chat.completions.create": frozenset(
        f"{_BOTH} frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens "
        "messages n presence_penalty reasoning_effort response_format seed stop".split()
    ),
    "responses.create": frozenset(
        f"{_BOTH} include input instructions max_output_tokens reasoning store text truncation".split()
    ),
}


def _python_openai(path: str, body: Json, base_url: str) -> str:
    method = "responses.create" if path == RESPONSES else "chat.completions.create"
    streams = bool(body.get("stream"))
    arguments = {name: value for name, value in body.items() if name in ARGUMENTS[method]}
    if extra := {name: value for name, value in body.items() if name not in arguments}:
        arguments["extra_body"] = extra
    return _fill(
        _OPENAI_SDK,
        url=_python_literal(f"{base_url}/v1"),
        result="stream" if streams else "response" if path == RESPONSES else "completion",
        method=method,
        arguments="".join(f"    {name}={_PYTHON.write(value, '    ')},\n" for name, value in arguments.items()),
        then=_THEN[method, streams],
    )


# --- JavaScript

_FETCH = """\
const response = await fetch(@url@, {
  method: "POST",
  headers: {
    "Authorization": `Bearer ${process.env.CHATAPI_API_KEY ?? ""}`,
    "Content-Type": "application/json",
  },
  body: JSON.stringify(@body@),
});
if (!response.ok) throw new Error(await response.text());
@then@"""
_PRINT_STREAM = """\
let rest = "";
for await (const piece of response.body.pipeThrough(new TextDecoderStream())) {
  const lines = (rest + piece).split("\\n");
  rest = lines.pop();
  for (const line of lines.filter((line) => line.startsWith("data: {"))) {
    const event = JSON.parse(line.slice(6));
    @print@
  }
}
console.log();
"""
_PRINT_CHUNK = """\
if (event.error) throw new Error(event.error.message);
    for (const choice of event.choices) process.stdout.write(choice.delta.content ?? "");"""
_PRINT_EVENT = """\
if (event.type === "response.failed") throw new Error(event.response.error.message);
    if (event.type === "response.output_text.delta") process.stdout.write(event.delta);"""
_PRINT_ENVELOPE = "console.log((await response.json()).data.response);\n"
_PRINT_COMPLETION = 'console.log((await response.json()).choices[0].message.content ?? "");\n'
_PRINT_RESPONSE = """\
const parts = (await response.json()).output.flatMap((item) => item.content ?? []);
console.log(parts.map((part) => (part.type === "output_text" ? part.text : "")).join(""));
"""


def _javascript_fetch(path: str, body: Json, base_url: str) -> str:
    if body.get("stream"):
        then = _fill(_PRINT_STREAM, print=_PRINT_EVENT if path == RESPONSES else _PRINT_CHUNK)
    elif path == RESPONSES:
        then = _PRINT_RESPONSE
    else:
        then = _PRINT_COMPLETION if path.startswith("/v1/") else _PRINT_ENVELOPE
    return _fill(_FETCH, url=_json_literal(base_url + path), body=_JAVASCRIPT.write(body, "  "), then=then)
