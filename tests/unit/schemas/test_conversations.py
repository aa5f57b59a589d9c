"""Messages reach a chat model as they were sent."""

import time

import pytest
from support.jobs import USER, job_of, refusal_of
from support.models import CHATS, payload
from support.tables import raised

from chatapi.catalogue import ModelCard
from chatapi.errors import BadRequest
from chatapi.huggingface.abilities import check

OF_MESSAGES = ("s1", "openai")
SYSTEM, ASSISTANT = {"role": "system", "content": "Be brief."}, {"role": "assistant", "content": "Hello."}
WHAT = {"type": "text", "text": "What is this?"}
CALLS = [
    {"id": f"call_{i}", "type": "function", "function": {"name": "weather", "arguments": f'{{"city":"{city}"}}'}}
    for i, city in enumerate(("Belém", "São Paulo"))
]
CALLING = {"role": "assistant", "content": None, "tool_calls": CALLS}


def user(*content):
    return {"role": "user", "content": list(content)}


ANYWHERE = {
    **{f"{role} and user": [{"role": role, "content": "x"}, USER] for role in ("user", "assistant", "system")},
    "an assistant that calls tools may be silent": [USER, CALLING],
    "one user message with text is enough": [{"role": "user", "content": ""}, ASSISTANT, USER],
    "or one part of it": [SYSTEM, user({"type": "text", "text": ""}, {"type": "text", "text": "x"})],
    "or an image": [user({"type": "image_url", "image_url": {"url": "https://x.test/a.png"}})],
}
ON_V1 = {
    "tool results of parallel calls": [
        {"role": "developer", "content": "Be brief."},
        *(USER, CALLING, {"role": "tool", "tool_call_id": "call_0", "content": "32 °C"}),
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "18 °C"}]},
    ],
    **{
        f"a result without words: {content}": [USER, {"role": "tool", "tool_call_id": "a1", **content}]
        for content in ({"content": None}, {}, {"content": ""})
    },
    "an assistant without content": [USER, {"role": "assistant", "tool_calls": CALLS}],
    "deprecated function messages": [
        *(USER, {"role": "assistant", "content": None, "function_call": CALLS[0]["function"]}),
        {"role": "function", "name": "weather", "content": "32 °C"},
        {"role": "function", "name": "weather", "content": None},
    ],
    "names, refusals, thoughts and what nobody knows": [
        {"role": "system", "content": "S", "name": "boss"},
        {"role": "user", "content": "Oi", "name": "ana", "mood": "good"},
        {"role": "assistant", "content": None, "refusal": "No."},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"role": "assistant", "content": "4", "reasoning_content": "2 + 2", "x-unknown": [None]},
        USER,
    ],
    "images as URL and as data URL": [
        user(
            WHAT,
            {"type": "image_url", "image_url": {"url": "https://example.org/a.png?x=1&y=2", "detail": "low"}},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
        )
    ],
    "audio, files and what we do not know": [
        user(
            {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
            {"type": "file", "file": {"file_id": "file-1"}},
            {"type": "video_url", "video_url": {"url": "x"}, "uuid": 1},
            {"type": "image_url", "image_url": {"url": "data:x"}, "uuid": "a", "cache_control": {}},
        )
    ],
    "empty contents": [{"role": "user", "content": ""}, user()],
}
NO_WORDS = {  # for anybody: on /v1 a chat model judges them
    "a system message": [SYSTEM],
    "no user message": [SYSTEM, ASSISTANT],
    **{f"only {content!r}": [{"role": "user", "content": content}] for content in ("", " \n\t", [])},
    "a part of blanks": [user({"type": "text", "text": " "})],
}
TALKS = {f"s1: {name}": ("s1", talk) for name, talk in ANYWHERE.items()}
TALKS |= {name: ("openai", talk) for name, talk in {**ANYWHERE, **ON_V1, **NO_WORDS}.items()}


@pytest.mark.parametrize("dialect, messages", TALKS.values(), ids=TALKS)
@pytest.mark.parametrize("card", CHATS, ids=["routed", "own"])
def test_conversations_reach_a_chat_model_as_they_were_sent(card, dialect, messages):
    assert payload(card, job_of(dialect, messages=messages))["messages"] == messages


@pytest.mark.parametrize("messages", NO_WORDS.values(), ids=NO_WORDS)
@pytest.mark.parametrize("url", [None, "http://own.test"])
@pytest.mark.parametrize("task", ["text-generation", "text2text-generation"])
def test_some_user_message_has_text_or_an_image_in_s1s_dialect_and_for_text_models(task, url, messages):
    assert refusal_of("s1", messages=messages).param == "messages"
    card = ModelCard(id="org/name", task=task, url=url)
    assert raised(BadRequest, check, card, job_of("openai", messages=messages)).param == "messages"


@pytest.mark.parametrize("dialect", OF_MESSAGES)
@pytest.mark.parametrize(
    "spelling",
    [{"image_url": {"url": "a:b"}}, {"image_url": "a:b"}, {"text": "a:b"}],
    ids=["object", "string", "S1's text"],
)
def test_an_image_has_three_spellings_and_one_shape(dialect, spelling):
    job = job_of(dialect, messages=[user(WHAT, {"type": "image_url", **spelling})])
    assert job.messages[0]["content"] == [WHAT, {"type": "image_url", "image_url": {"url": "a:b"}}]


@pytest.mark.parametrize("dialect", OF_MESSAGES)
def test_ten_thousand_messages_load(dialect):
    """Plain ones, and ones that need the schema."""
    messages = [USER, ASSISTANT, user({"type": "text", "text": "x"}), SYSTEM] * 2500
    began = time.process_time()
    assert list(job_of(dialect, messages=messages).messages) == messages
    assert time.process_time() - began < 5
