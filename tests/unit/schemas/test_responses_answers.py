"""OpenAI's Responses format: replies → response objects, chunks → typed events."""

import json
import time

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter
from support.openai_schema import check
from support.responses_schema import RESPONSE, RESULT, WEATHER, check_events, events_of, load, nested, without_ids

from chatapi.chat import Chunk, Reply, Usage
from chatapi.errors import RateLimited, UpstreamRateLimited, UpstreamUnavailable
from chatapi.schemas import RESPONSES

USAGE = Usage(
    7, 5, details={"prompt_tokens_details": {"cached_tokens": 3}, "completion_tokens_details": {"reasoning_tokens": 2}}
)


# --- whole answers


def dump(message, finish_reason="stop", logprobs=None, usage=USAGE, **fields):
    message = {"role": "assistant", "content": None, "refusal": None, **message}
    choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": finish_reason}
    answer = RESPONSES.dump(Reply(model="served/model", choices=[choice], usage=usage), load(**fields))
    check(RESPONSE, answer)
    Response.model_validate(answer)
    assert answer == json.loads(json.dumps(answer))
    return answer


def said(*parts, status="completed"):
    return {"type": "message", "status": status, "role": "assistant", "content": list(parts)}


def text(words, logprobs=()):
    return {"type": "output_text", "text": words, "annotations": [], "logprobs": list(logprobs)}


def thought(words, status="completed"):
    content = [{"type": "reasoning_text", "text": words}]
    return {"type": "reasoning", "status": status, "summary": [], "content": content}


def called(status="completed", **fields):
    made = {"type": "function_call", "status": status, "call_id": "c1", "name": "weather"}
    return {**made, "arguments": '{"city":"Belém"}', **fields}


def test_a_whole_answer():
    before = int(time.time())
    answer = dump({"content": "Oi"})
    assert (answer["status"], answer["model"]) == ("completed", "served/model")
    assert before <= answer["created_at"] <= answer["completed_at"] <= time.time()
    assert without_ids(answer["output"]) == [said(text("Oi"))]
    assert answer["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 12,
    }


@pytest.mark.parametrize(
    "details", [None, "x", [], {"cached_tokens": -1}, {"cached_tokens": "3"}, {"cached_tokens": True}]
)
def test_details_of_usage_that_cannot_be_true_are_unknown(details):
    usage = Usage(7, 5, details={"prompt_tokens_details": details, "completion_tokens_details": details})
    answer = dump({"content": "Oi"}, usage=usage)
    assert answer["usage"]["input_tokens_details"] == {"cached_tokens": 0, "cache_write_tokens": 0}
    assert answer["usage"]["output_tokens_details"] == {"reasoning_tokens": 0}


def test_settings_that_were_not_set_have_openais_defaults():
    head = ("id", "object", "created_at", "completed_at", "model", "output", "usage", "status")
    unset = ("error", "incomplete_details", "instructions", "max_output_tokens", "max_tool_calls")
    unset += ("previous_response_id", "prompt_cache_key", "safety_identifier")
    assert {k: v for k, v in dump({"content": "Oi"}).items() if k not in head} == {
        **dict.fromkeys(unset),
        "frequency_penalty": 0,
        "presence_penalty": 0,
        "temperature": 1,
        "top_p": 1,
        "top_logprobs": 0,
        "background": False,
        "store": False,
        "parallel_tool_calls": True,
        "metadata": {},
        "tools": [],
        "service_tier": "default",
        "tool_choice": "auto",
        "truncation": "disabled",
        "reasoning": {"effort": None, "summary": None},
        "text": {"format": {"type": "text"}},
    }


def test_every_setting_is_repeated():
    settings = (
        {"frequency_penalty": 0.5, "presence_penalty": -0.5, "temperature": 0, "top_p": 0.5, "top_logprobs": 2}
        | {"instructions": "Be brief.", "max_output_tokens": 100, "max_tool_calls": 3, "metadata": {"run": "7"}}
        | {"parallel_tool_calls": False, "prompt_cache_key": "k", "safety_identifier": "s", "service_tier": "flex"}
        | {"tool_choice": "required", "tools": [WEATHER], "truncation": "auto", "user": "alice"}
        | {"reasoning": {"effort": "low", "summary": "auto"}}
        | {"text": {"format": {"type": "json_object"}, "verbosity": "low"}}
    )
    answer = dump({"content": "Oi"}, **settings, store=True)
    assert {name: answer[name] for name in settings} == settings
    assert answer["store"] is False, "nothing is kept, whatever was asked"


def test_the_deprecated_single_call_gets_an_id():
    (item,) = dump({"function_call": nested()["function"]}, "function_call")["output"]
    assert item["call_id"].startswith("call_")


REFUSED = {"type": "refusal", "refusal": "No."}
ITEMS = {
    "thoughts, words and calls": (
        {"reasoning_content": "Hm.", "reasoning": "Hm.", "content": "Let me see.", "tool_calls": [nested()]},
        [thought("Hm."), said(text("Let me see.")), called()],
    ),
    "a refusal is a part": ({"refusal": "No."}, [said(REFUSED)]),
    "beside words it is another": ({"content": "Well.", "refusal": "No."}, [said(text("Well."), REFUSED)]),
    "a message is there where nothing else is": ({"content": ""}, [said(text(""))]),
    "thoughts alone": ({"reasoning_content": "Hm.", "content": ""}, [thought("Hm.")]),
    "a call alone": ({"content": "", "tool_calls": [nested()]}, [called()]),
    "a custom tool's call": (
        {"tool_calls": [{"id": "c1", "type": "custom", "custom": {"name": "weather", "input": "Belém"}}]},
        [called(arguments="Belém")],
    ),
}


@pytest.mark.parametrize("message, items", ITEMS.values(), ids=ITEMS)
def test_an_answer_is_made_of_items_whole_and_streamed(message, items):
    assert without_ids(dump(message, "stop")["output"]) == items
    stream = Stream().delta(role="assistant", content="")
    for name, value in message.items():
        if name != "reasoning":  # the same thoughts by another name
            stream.delta(**{name: [{"index": 0, **call} for call in value] if name == "tool_calls" else value})
    assert outputs(stream.delta(content="of another choice", index=1).end()) == items


CUT_BY = {"length": "max_output_tokens", "content_filter": "content_filter"}


@pytest.mark.parametrize("finish, reason", CUT_BY.items())
def test_an_incomplete_answer_says_why_and_where(finish, reason):
    answer = dump({"content": "Let", "reasoning_content": "Hm."}, finish)
    events = Stream().delta(reasoning_content="Hm.").pieces(b"Let").end(finish)
    assert kinds(events)[-3:] == ["content_part.added", "output_text.delta", "incomplete"], (
        "it is never said to be done"
    )
    for found in (answer, last := check_events(events)):
        assert (found["status"], found["completed_at"]) == ("incomplete", None)
        assert found["incomplete_details"] == {"reason": reason}
        assert without_ids(found["output"]) == [thought("Hm."), said(text("Let"), status="incomplete")]
    assert last["usage"]["total_tokens"] == 12
    empty = [said(text(""), status="incomplete")]
    assert without_ids(dump({"content": None}, finish)["output"]) == empty == outputs(Stream().end(finish))
    cut = Stream().calls(0, '{"ci', "c1").end(finish)
    assert outputs(cut) == [called("incomplete", arguments='{"ci')]


OI = {"token": "Oi", "logprob": -0.5, "bytes": [79, 105]}
E_ACUTE = {"token": "é", "logprob": 0, "bytes": [195, 169], "top_logprobs": []}
LOGPROBS = {"content": [{**OI, "bytes": None, "top_logprobs": [OI]}, {**E_ACUTE, "bytes": None, "extra": 1}]}
TOKENS = [{**OI, "top_logprobs": [OI]}, E_ACUTE]


def test_logprobs_are_there_when_they_were_asked_for():
    asked = dump({"content": "Oi"}, logprobs=LOGPROBS, include=["message.output_text.logprobs"])
    assert without_ids(asked["output"]) == [said(text("Oi", TOKENS))]
    assert without_ids(dump({"content": "Oi"}, logprobs=LOGPROBS)["output"]) == [said(text("Oi"))]
    none = dump({"content": "Oi"}, logprobs={"content": None}, include=["message.output_text.logprobs"])
    assert without_ids(none["output"]) == [said(text("Oi"))]


# --- streams

EVENT = TypeAdapter(ResponseStreamEvent)


class Stream:
    """One stream's events, as its writer makes them."""

    def __init__(self, **fields):
        self.writer = RESPONSES.events(load(stream=True, **fields))
        self.body = b""

    def delta(self, finish_reason=None, model="served/model", logprobs=None, index=0, **delta):
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        self.body += self.writer.chunk(Chunk(model=model, choices=[choice]))
        return self

    def calls(self, index, arguments, id=None):
        """A piece of a call; its first has an id."""
        begun = {"id": id, "function": {"name": "weather", "arguments": arguments}}
        return self.delta(tool_calls=[{"index": index, **(begun if id else {"function": {"arguments": arguments}})}])

    def pieces(self, *pieces):
        self.body += self.writer.pieces(list(pieces))
        return self

    def take(self, *steps):
        """Deltas, runs of pieces, and pieces of calls."""
        for step in steps:
            if isinstance(step, dict):
                self.delta(**step)
            else:
                (self.calls if isinstance(step, tuple) else self.pieces)(*step)
        return self

    def end(self, finish_reason="stop", usage=USAGE):
        self.delta(finish_reason)
        self.body += self.writer.chunk(Chunk(model="served/model", usage=usage)) + self.writer.end()
        return self.events()

    def fail(self, error):
        self.body += self.writer.error(error, "req-1")
        return self.events()

    def events(self):
        events = events_of(self.body)
        for event in events:
            EVENT.validate_python(event)
        return events


def kinds(events):
    return [event["type"].removeprefix("response.") for event in events]


def outputs(events):
    return without_ids(check_events(events)["output"])


FIRST = (0, "", "c1"), (0, '{"city":'), (0, '"Belém"}')
BEGUN = ["created", "in_progress"]
OPENED = ["output_item.added", "content_part.added"]
CLOSED = ["content_part.done", "output_item.done"]
CALLED = ["function_call_arguments.done", "output_item.done"]
TEXT_BEGUN, TEXT_ENDED = [*OPENED, "output_text.delta"], ["output_text.done", *CLOSED]
CALL_BEGUN = ["output_item.added", "function_call_arguments.delta"]
STREAMS = {  # what comes → what it makes, and by which events
    "text": (
        [{"role": "assistant", "content": ""}, {"content": "Oi"}, [b", ", b"tudo"]],
        [said(text("Oi, tudo"))],
        [*TEXT_BEGUN, *["output_text.delta"] * 2, *TEXT_ENDED],
    ),
    "items follow each other": (
        [{"reasoning": "H"}, {"reasoning": "m."}, {"content": "Let me see."}, *FIRST, (1, '{"city":"Belém"}', "c2")],
        [thought("Hm."), said(text("Let me see.")), called(), called(call_id="c2")],
        [
            *(*OPENED, *["reasoning_text.delta"] * 2, "reasoning_text.done", *CLOSED, *TEXT_BEGUN, *TEXT_ENDED),
            *(*CALL_BEGUN, CALL_BEGUN[1], *CALLED, *CALL_BEGUN, *CALLED),
        ],
    ),
    "a call that is not whole may go on after another has begun": (
        [*FIRST[:2], (1, "{}", "c2"), FIRST[2]],
        [called(), called(call_id="c2", arguments="{}")],
        [*CALL_BEGUN * 2, CALL_BEGUN[1], *CALLED * 2],
    ),
    "words after a call are another message": (
        [{"content": "A"}, {"tool_calls": [{"index": 0, **nested()}]}, {"content": "B"}, [b"C"]],
        [said(text("A")), called(), said(text("BC"))],
        [*TEXT_BEGUN, *TEXT_ENDED, *CALL_BEGUN, *CALLED, *TEXT_BEGUN, "output_text.delta", *TEXT_ENDED],
    ),
    "a refusal after words is a part of its own": (
        [{"content": "Well."}, {"refusal": "N"}, {"refusal": "o."}],
        [said(text("Well."), REFUSED)],
        [*TEXT_BEGUN, *TEXT_ENDED[:2], "content_part.added", *["refusal.delta"] * 2, "refusal.done", *CLOSED],
    ),
    "half a character, what JSON escapes, and line ends that it does not": (
        [[b"\\ud83d", b'\\ude00 \\"x\\"\\n'], {"content": "\u2028é"}, ["ã".encode()]],
        [said(text('😀 "x"\n\u2028éã'))],
        [*TEXT_BEGUN, *["output_text.delta"] * 3, *TEXT_ENDED],
    ),
}


@pytest.mark.parametrize("coming, made, told", STREAMS.values(), ids=STREAMS)
def test_a_stream_is_told_as_it_comes(coming, made, told):
    events = Stream().take(*coming).end("tool_calls" if made[-1]["type"] == "function_call" else "stop")
    assert kinds(events) == [*BEGUN, *told, "completed"]
    assert outputs(events) == made


def test_the_last_object_of_a_stream_is_the_whole_answer():
    fields = {"instructions": "Be brief.", "tools": [WEATHER], "temperature": 0.5, "metadata": {"run": "7"}}
    message = {"content": "Let me see.", "reasoning_content": "Hm.", "tool_calls": [nested()]}
    whole = dump(message, "tool_calls", **fields)
    stream = Stream(**fields).take({"role": "assistant", "content": ""}, {"reasoning_content": "Hm."})
    stream.take([b"Let me ", b"see."], {"tool_calls": [{"index": 0, **nested()}]})
    streamed = check_events(stream.end("tool_calls"))
    for answer in (whole, streamed):
        answer["output"] = without_ids(answer["output"])
        assert all(answer.pop(own) for own in ("id", "created_at", "completed_at"))
    assert streamed == whole


def test_line_ends_of_unicode_go_out_escaped():
    stream = Stream(instructions="a\u2028b").delta(content="c\u2029d\u0085")
    stream.end()
    assert not set("\u2028\u2029\u0085") & set(stream.body.decode())


BROKEN = [(UpstreamUnavailable("It broke off. Try again."), "server_error")]
BROKEN += [(kind("Slower."), "rate_limit_exceeded") for kind in (UpstreamRateLimited, RateLimited)]


@pytest.mark.parametrize("error, code", BROKEN)
def test_a_failure_is_the_last_event(error, code):
    events = Stream().delta(reasoning="Hm.").pieces(b"Let").fail(error)
    last = check_events(events)
    ours = {"reason": error.code, "retryable": error.retryable, "request_id": "req-1"}
    assert last["error"] == {"code": code, "message": error.message, **ours}
    assert last["status"] == "failed"
    assert last["completed_at"] is last["usage"] is last["incomplete_details"] is None
    assert outputs(events) == [thought("Hm."), said(text("Let"), status="incomplete")]
    before_a_word = Stream().fail(error)
    assert kinds(before_a_word) == [*BEGUN, "failed"]
    last = check_events(before_a_word)
    assert (last["output"], last["model"]) == ([], "org/name")


def test_the_model_is_the_one_that_wrote_the_end():
    stream = Stream().delta(content="A", model="first/model").delta(content="B", model="second/model")
    events = stream.delta(model="second/model").events()
    assert events[0]["response"]["model"] == "first/model"
    stream.body += stream.writer.end()
    last = check_events(stream.events())
    assert last["model"] == "second/model"
    assert without_ids(last["output"]) == [said(text("AB"))]


def test_logprobs_come_with_their_words():
    stream = Stream(include=["message.output_text.logprobs"]).delta(content="Oié", logprobs=LOGPROBS)
    events = stream.delta(content="!").end()
    assert outputs(events) == [said(text("Oié!", TOKENS))]
    assert [e["logprobs"] for e in events if e["type"] == "response.output_text.delta"] == [TOKENS, []]
    assert outputs(Stream().delta(content="Oié", logprobs=LOGPROBS).end()) == [said(text("Oié"))]


def test_many_calls_cost_no_more_each():
    stream, began = Stream(), time.process_time()
    for i in range(3000):
        call = {"index": i, "id": f"c{i}", "function": {"name": "f", "arguments": "{"}}
        choice = {"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}
        stream.writer.chunk(Chunk(model="a/b", choices=[choice]))
    stream.writer.end()
    assert time.process_time() - began < 1


def test_an_answer_can_come_back_as_history():
    calls = [nested(), nested("c2")]
    message = {"content": "Let me see.", "reasoning_content": "Hm.", "tool_calls": calls}
    answer = dump(message, "tool_calls")
    again = load(input=[{"role": "user", "content": "Hi"}, *answer["output"], RESULT]).messages
    assert again[1] == {"role": "assistant", "content": "Let me see.", "tool_calls": calls}
