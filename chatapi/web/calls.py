"""A call between its job and its answer: within its caller's limits, in the ledger, asked of the engine."""

import time

from flask import Response

from ..call import Call
from ..chat import ChatJob, Reply, Usage, estimated
from ..components import Components
from ..errors import ChatError
from ..schemas import Dialect
from .request import components, here
from .response import json_response, name_differences
from .stream import EventStream

LATE_S = 2.0  # how long after a call's deadline its answer may still be being read


def answer(job: ChatJob, dialect: Dialect) -> Response:
    """What `job` is answered with: one body, or a stream of events. Raises ChatError."""
    call: Call = here().call
    parts = components()
    connection = call.connection
    try:
        job = begin(call, job, parts)
        if connection is not None:
            connection.watch(call.leave)
            connection.write_deadline = call.deadline + LATE_S
        engine, began = parts.engine, time.perf_counter()
        try:
            if job.stream:
                return EventStream(call, job, dialect, engine.stream(job, call), connection).response()
            reply = engine.reply(job, call)
        finally:
            call.upstream_ms = (time.perf_counter() - began) * 1000
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
    response.told.append(("X-Usage-Source", reply.usage.source))
    name_differences(response, job, reply.model, reply.ignored)
    return response


def begin(call: Call, job: ChatJob, parts: Components) -> ChatJob:
    """`job` as it may be asked: the caller's models, its token limits, a row in the ledger. Raises AccessError."""
    assert call.caller is not None
    call.model, call.stream = job.model, job.stream
    if call.caller.models:
        call.caller.require([job.model, *(job.fallbacks or ())])
    parts.engine.begin(job, call)
    began = time.perf_counter()
    job = parts.accounts.begin(call, job)
    call.limit_ms = (call.limit_ms or 0.0) + (time.perf_counter() - began) * 1000
    return job
