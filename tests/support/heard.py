"""What callers of the gateway hear, in any dialect and with its time, and what the gateway itself says of each call."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from support.callers import Told, choices, take_apart
from support.dialects import LEGACY, NEW, RESPONSES, V1, asking
from support.responses_schema import check_events, comments_of, events_of

DIALECTS = {"legacy": LEGACY, "s1": NEW, "v1": V1, "responses": RESPONSES}
ON_V1 = ("v1", "responses")  # the dialects with OpenAI's statuses
BLUEPRINTS = {"legacy": "legacy", "s1": "completions", "v1": "openai", "responses": "responses"}


class Heard(NamedTuple):
    """One answer as it reached the caller."""

    status: int
    headers: dict
    body: bytes
    seconds: float

    @property
    def is_stream(self):
        return self.headers["Content-Type"].startswith("text/event-stream")

    @property
    def told(self):
        return told(self.body)

    @property
    def whole(self):
        """A whole answer as (text, model, usage under chat's names)."""
        answer = json.loads(self.body)
        if "data" in answer:
            return answer["data"]["response"], answer["data"]["model"], answer["data"]["usage"]
        if "output" in answer:
            return text_in(answer["output"]), answer["model"], chats_usage(answer["usage"])
        return answer["choices"][0]["message"]["content"], answer["model"], answer["usage"]

    @property
    def error(self):
        """The error, be it the whole answer or a stream's last event; None for an answer."""
        return self.told.error if self.is_stream else json.loads(self.body).get("error")

    @property
    def code(self):
        return self.error["code"] if self.error else None

    @property
    def text(self):
        if self.is_stream:
            return "".join(choice["delta"].get("content") or "" for choice in choices(self.told))
        return self.whole[0]

    @property
    def models(self):
        """The models named, in their order, each once in a row."""
        if not self.is_stream:
            return [self.whole[1]]
        named = [chunk["model"] for chunk in self.told.chunks]
        return [name for i, name in enumerate(named) if i == 0 or named[i - 1] != name]

    @property
    def usage(self):
        if self.is_stream:
            return self.told.chunks[-1]["usage"]
        return self.whole[2]

    @property
    def tokens(self):
        return self.usage["prompt_tokens"], self.usage["completion_tokens"]


def told(body):
    """A stream taken apart, be it one of chunks or of typed events."""
    return told_by_events(body) if b"\nevent: " in b"\n" + body else take_apart(body)


def told_by_events(body):
    """A stream of typed events in the terms of chunks: what the tests of all dialects look at."""
    events = events_of(body)
    last = check_events(events)
    begun = {"id": last["id"], "model": events[0]["response"]["model"]}
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    shown = [{"role": "assistant"}, *({"content": delta} for delta in deltas)]
    chunks = [begun | {"choices": [{"delta": delta, "finish_reason": None}]} for delta in shown]
    if last["status"] == "failed":
        # Its model is the one that broke off; `code` is OpenAI's word there, and `reason` is ours.
        return Told(comments_of(body), chunks, last["error"] | {"code": last["error"]["reason"]}, False)
    reason = {"max_output_tokens": "length"}.get((last["incomplete_details"] or {}).get("reason"), "stop")
    end = {"id": last["id"], "model": last["model"]}
    finish = end | {"choices": [{"delta": {}, "finish_reason": reason}]}
    assert "".join(deltas) == text_in(last["output"])
    return Told(
        comments_of(body), [*chunks, finish, end | {"choices": [], "usage": chats_usage(last["usage"])}], None, True
    )


def text_in(output):
    """The text of a response's messages."""
    parts = [part for item in output if item["type"] == "message" for part in item["content"]]
    return "".join(part["text"] for part in parts if part["type"] == "output_text")


def chats_usage(usage):
    """A response's usage under chat's names."""
    names = {"prompt_tokens": "input_tokens", "completion_tokens": "output_tokens", "total_tokens": "total_tokens"}
    return {chats: usage[name] for chats, name in names.items()}


def hear(gateway, route, model, text="hi there", headers=None, **fields):
    """Ask and read the answer to its end."""
    if route == V1 and fields.get("stream"):
        fields["stream_options"] = {"include_usage": True}
    began = time.monotonic()
    answer = gateway.post(route, asking(route, model, text, **fields), headers=headers)
    return Heard(answer.status_code, answer.headers, answer.content, time.monotonic() - began)


def check_one_answer(heard, text, finish="stop"):
    """A stream that is one complete answer: one id, one role, one finish, usage, [DONE]."""
    told = heard.told
    assert (told.error, told.done) == (None, True)
    assert heard.text == text
    assert len({chunk["id"] for chunk in told.chunks}) == 1
    assert ["role" in choice["delta"] for choice in choices(told)] == [True] + [False] * (len(choices(told)) - 1)
    *chunks, last = told.chunks
    assert [choice["finish_reason"] for choice in choices(told) if choice["finish_reason"]] == [finish]
    assert chunks[-1]["choices"][0]["finish_reason"] == finish
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == sum(heard.tokens)
    assert not any(chunk.get("usage") for chunk in chunks)


def check_failed_stream(heard, code):
    """A stream that says it failed: the error is its last event, nothing looks like an end."""
    told = heard.told
    assert told.error is not None, heard.body[-300:]
    assert told.error["code"] == code
    assert told.error["message"]
    assert not told.done
    assert not any(choice["finish_reason"] for choice in choices(told))


def records(gateway):
    """The gateway's line of each call, in the order they ended."""
    return [json.loads(line) for line in gateway.log_text().splitlines() if line.startswith('{"time"')]


def records_of(gateway, request_id):
    return [record for record in records(gateway) if record["request_id"] == request_id]


def wait_until(true, within_s=5.0):
    """The first true value of `true()`; what it gave last when the time is over."""
    until = time.monotonic() + within_s
    while not (value := true()) and time.monotonic() < until:
        time.sleep(0.01)
    return value


def all_at_once(function, cases, threads=60):
    """function(case) of every case by case, side by side."""
    with ThreadPoolExecutor(threads) as pool:
        return dict(zip(cases, pool.map(function, cases), strict=True))


def numbers(text):
    """Each sample of the metrics, by its name and labels."""
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[:1] != "#"}
