"""A call between its job and its answer: within its caller's limits, in the ledger, asked of the engine."""

import time

from flask import Response

from ..call import Call
from ..chat import ChatJob, Reply, Usage, estimated
from ..errors import ChatError
from ..schemas import Dialect
from .request import components, current_call, current_environ, ms_since
from .response import json_response, name_differences
from .stream import EventStream

LATE_S = 2.0  # how long after a call's deadline its answer may still be being read


def answer(job: ChatJob, dialect: Dialect) -> Response:
    """What `job` is answered with: one body, or a stream of events. Raises ChatError."""
    call = current_call()
    try:
        job = begin(call, job)
        connection = current_environ().get("chatapi.connection")
        if connection is not None:
            connection.watch(call.leave)
            connection.write_deadline = call.deadline + LATE_S
        engine, began = components().engine, time.perf_counter()
        try:
            if job.stream:
                return EventStream(call, job, dialect, engine.stream(job, call), connection).response()
            reply = engine.reply(job, call)
        finally:
            call.upstream_ms = ms_since(began)
            if connection is not None and not job.stream:
                connection.unwatch()
    except ChatError as error:
        if call.prompt_owed:
            call.count(Usage(estimated(job.messages, "").prompt_tokens, 0, "estimate"))
        error.name_fields(job.written)
        raise
    return _whole(call, job, reply, dialect)


def _whole(call: Call, job: ChatJob, reply: Reply, dialect: Dialect) -> Response:
    call.served = reply.model
    call.count(reply.usage)
    response = json_response(dialect.dump(reply, job))
    response.told = [("X-Usage-Source", reply.usage.source)]
    name_differences(response, job, reply.model, reply.ignored)
    return response


def begin(call: Call, job: ChatJob) -> ChatJob:
    """`job` as it may be asked: the caller's models, its token limits, a row in the ledger. Raises AccessError."""
    parts = components()
    assert call.caller is not None
    call.model, call.stream = job.model, job.stream
    call.caller.require([job.model, *(job.fallbacks or ())])
    parts.engine.begin(job, call)
    began = time.perf_counter()
    job = parts.accounts.begin(call, job)
    call.limit_ms = (call.limit_ms or 0.0) + ms_since(began)
    return job
