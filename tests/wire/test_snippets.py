"""A request as curl, Python and JavaScript, run as they are against a gateway, with texts that break careless ones."""

import inspect
import json
import subprocess
import sys

import pytest
from openai import OpenAI
from support.dialects import LEGACY, RESPONSES, V1
from support.dialects import NEW as CHAT
from support.gateways import clean_environment

from chatapi.migration.snippets import ARGUMENTS, READABLE, snippets

ROUTES = [CHAT, LEGACY, V1, RESPONSES]
MODEL = "test/echo"
NASTY = "\n".join(
    [
        "it's a \"test\", isn't it?",
        "JSON",  # the delimiter of curl's here-document
        "$HOME ${HOME} $(id) `id` %HOME% !! !$ ; rm -rf / && exit | cat > /dev/null & # *",
        r"\ \\ \n \u0041 \x41 \N{DIGIT ONE} \' \"",
        "''' \"\"\" ``` ${1 + 1} {braces} %s %(a)s @url@ @body@ </script> <!-- \\",
        "a\tb\rc\x00d\x07e\x1bf\x7fg\x85h",
        "\u2028\u2029\u200b\u202eabc\u202c\u00a0\ufeff\U000e0041",
        "ção ñ ß 日本語 😀 👩‍👩‍👧 é",
        "- -x --data @/etc/passwd",
    ]
)
TEXTS = [
    *(NASTY, "'", '"', "\\", "JSON", "\nJSON\n", "'; echo pwned; '", "$(echo pwned)", "@/etc/hostname", "\u2028"),
    "x" * (READABLE + 1) + NASTY,
]
RUN = {
    "bash": ("curl", ["bash", "-eu"]),
    "dash": ("curl", ["dash", "-eu"]),
    "python": ("python", [sys.executable, "-W", "error", "-"]),
    "node": ("javascript", ["node", "--input-type=module", "-"]),
}


def body_for(path, text, **more):
    asked = {LEGACY: {"message": text}, RESPONSES: {"input": text}}
    return {"model": MODEL, **asked.get(path, {"messages": [{"role": "user", "content": text}]}), **more}


def execute(program, path, body, url, key="chatapi_key"):
    """The process that has run the snippet."""
    language, command = RUN[program]
    environment = {**clean_environment("/nonexistent"), "CHATAPI_API_KEY": key, "PYTHONIOENCODING": "utf-8"}
    source = snippets(path, body, url)[language]
    return subprocess.run(command, input=source.encode(), capture_output=True, env=environment, timeout=60, check=False)


def run(program, path, body, url, key="chatapi_key"):
    """What the snippet prints."""
    done = execute(program, path, body, url, key)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def answer_in(shown):
    """The text of the answer in what curl shows: an envelope, a completion or a response, or a stream of events."""
    if not shown.startswith(("data: ", "event: ")):
        answer = json.loads(shown)
        if answer.get("object") == "response":
            return "".join(part["text"] for item in answer["output"] for part in item["content"])
        return answer["data"]["response"] if "data" in answer else answer["choices"][0]["message"]["content"]
    events = [json.loads(line[6:]) for line in shown.split("\n") if line.startswith("data: {")]
    deltas = [event["delta"] for event in events if event.get("type") == "response.output_text.delta"]
    return "".join(deltas) + "".join(c["delta"].get("content") or "" for e in events for c in e.get("choices", ()))


@pytest.mark.parametrize("program", RUN)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("path", ROUTES)
def test_a_snippet_asks_for_the_very_text_and_prints_the_answer(gateway, upstream, program, path, stream):
    """Whole with a key, as a stream without one, which this gateway does not need."""
    key = "" if stream else "chatapi_key"
    shown = run(program, path, body_for(path, NASTY, stream=stream, top_k=3), gateway.url, key)
    (call,) = upstream.calls_for(MODEL)
    assert call.body["messages"] == [{"role": "user", "content": NASTY}]
    assert call.body["top_k"] == 3
    answered = answer_in(shown) if RUN[program][0] == "curl" else shown.removesuffix("\n")
    assert answered == NASTY


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
@pytest.mark.parametrize("program", ["bash", "node"])
def test_any_text_is_safe(gateway, upstream, program, text):
    run(program, V1, body_for(V1, text), gateway.url)
    (call,) = upstream.calls_for(MODEL)
    assert call.body["messages"] == [{"role": "user", "content": text}]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_any_text_is_a_literal_of_python(text):
    source = snippets(CHAT, body_for(CHAT, text), "http://127.0.0.1")["python"]
    literal = source.partition("json=")[2].partition("\n)\n")[0].rstrip(",")
    assert eval(literal) == body_for(CHAT, text)


def test_field_names_are_as_safe_as_texts(gateway, upstream):
    extra = {name: {name: [name, None, True, 1.5, -2]} for name in (*TEXTS[:-1], "__proto__", "constructor", "a b")}
    body = body_for(V1, "hi") | extra
    for program in ("bash", "python", "node"):
        upstream.reset()
        run(program, V1, body, gateway.url)
        (call,) = upstream.calls_for(MODEL)
        assert {name: call.body.get(name) for name in extra} == extra


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("program", ["python", "node"])
def test_a_program_fails_in_the_gateways_own_words_and_with_a_cut_stream(gateway, upstream, program, path):
    done = execute(program, path, body_for(path, "hi", temperature=9), gateway.url)
    assert done.returncode != 0 and done.stdout == b""
    assert "temperature: must be from 0 to 2" in done.stderr.decode()
    body = body_for(path, "hi", stream=True) | {"model": "test/cut"}
    assert execute(program, path, body, gateway.url).returncode != 0


@pytest.mark.parametrize("method", ARGUMENTS)
def test_the_sdk_has_an_argument_for_what_is_given_as_one(method):
    client = OpenAI(api_key="none")
    create = client.responses.create if method.startswith("responses") else client.chat.completions.create
    assert ARGUMENTS[method] <= inspect.signature(create).parameters.keys()
