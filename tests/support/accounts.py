"""Calls of a caller as accounts see them: about to be made, and ended."""

from chatapi.call import Call
from chatapi.caller import Caller, Limits
from chatapi.chat import ChatJob
from chatapi.errors import RateLimited, StoreUnavailable

V1 = "/v1/chat/completions"
JOB = ChatJob(model="a/b", messages=[{"role": "user", "content": "hi"}], options={"max_tokens": 40})
PROMPT = 6  # what "hi" is taken to be: a message costs four more


def job_of(max_tokens):
    return ChatJob(model="a/b", messages=JOB.messages, options={"max_tokens": max_tokens})


def caller_of(words="", key_id="k", subject=None):
    return Caller(key_id, subject or f"key:{key_id}", Limits.parse(words))


def begun(accounts, caller, job=JOB, number=0, seconds=60):
    """A call that is about to be made; who is refused ends."""
    call = Call(f"r{number}", V1, "openai", seconds)
    call.caller, call.key_id, call.observers, call.model = caller, caller.key_id, (accounts.end,), job.model
    try:
        accounts.admit(call)
        accounts.begin(call, job)
    except (RateLimited, StoreUnavailable) as error:
        call.fail(error)
        call.end()
    return call


def end(call, prompt=PROMPT, completion=40, ending="completed"):
    call.served, call.prompt_tokens, call.completion_tokens = "a/b", prompt, completion
    call.end(ending)
