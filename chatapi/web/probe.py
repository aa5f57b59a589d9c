"""`GET /v1/probe`: a stream or a silence without a model, by which the doctor sees what a proxy makes of calls."""

import math
import re
import resource
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

from flask import Blueprint, Response, g, request
from werkzeug.wsgi import ClosingIterator

from ..accounting import statements
from ..accounting.store import Store
from ..call import Call
from ..chat import Json
from ..errors import BadRequest, ChatError, ClientLeft, StoreUnavailable
from ..languages import _
from ..schemas.strict_json import dumps
from .request import authenticated, components
from .response import event_stream, json_response

blueprint = Blueprint("probe", __name__)

MOST_EVENTS = 100
KEPT_S = 60  # how long a note about a caller who left is kept, at least
_NOTE = re.compile(r"[a-z0-9]{0,64}")


@blueprint.get("/v1/probe")
@authenticated
def probe() -> Response:
    """Try the way to this gateway, no model asked: `?events=N&every_s=S` streams, `?silence_s=T` answers after T s.

    What it says: how the gateway saw the request. With `note=NAME` a caller who leaves early is noted in the database.
    `flask --app wsgi doctor` asks for it.
    """
    call: Call = g.call
    parts = components()
    most_s = parts.settings.max_time_s + parts.settings.heartbeat_s
    events, note = _number("events", MOST_EVENTS), _note()
    every_s, silence_s = _number("every_s", most_s), _number("silence_s", most_s)
    if events != int(events) or events * every_s + silence_s > most_s or (events and silence_s):
        raise BadRequest(
            _("Ask for up to {events} events or for one silence, within {most:g} s.", events=MOST_EVENTS, most=most_s),
            details={"events": [_("too much, or not a whole number")]},
        )
    parts.engine.begin_probe(call, most_s + 1)  # real calls' deadline is the longest silence that can be asked for
    if call.connection is not None:
        call.connection.watch(call.leave)
    if events:
        call.stream = True
        items = _events(call, int(events), every_s, parts.settings.heartbeat_s)
        return event_stream(ClosingIterator(items, partial(_close, call, parts.store, note)))
    try:
        call.pause(silence_s)
    except ClientLeft:
        _note_left(parts.store, note)
        raise
    return json_response(_seen(note))


def _number(name: str, most: float) -> float:
    try:
        value = float(request.args.get(name, 0))
    except ValueError:
        value = math.nan
    if not 0 <= value <= most:
        raise BadRequest(
            _("{name} must be a number from 0 to {most:g}.", name=name, most=most),
            details={name: [_("must be 0 to {most:g}", most=most)]},
        )
    return value


def _note() -> str:
    note = request.args.get("note", "")
    if not _NOTE.fullmatch(note):
        raise BadRequest(_("note must be up to 64 small letters and digits."), details={"note": [_("must be a word")]})
    return note


def _seen(note: str) -> Json:
    """How the request looked from here."""
    noted = None
    with suppress(StoreUnavailable):
        noted = components().store.read(lambda tx: statements.get_meta(tx, "probe:" + note))
    return {
        "object": "probe",
        "address": request.remote_addr,
        "scheme": request.scheme,
        "host": request.host,
        "forwarded_for": len(list(filter(None, request.headers.get("X-Forwarded-For", "").split(",")))),
        "watched": "chatapi.connection" in request.environ,
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "noted": noted is not None,  # whoever asks has written the note into the database that the gateway uses
    }


def _events(call: Call, count: int, every_s: float, heartbeat_s: float) -> Iterator[bytes]:
    """The events, and the end of their call: not where the caller has left, but where the worker has to stop."""
    try:
        for number in range(count):
            left_s = every_s if number else 0.0
            while left_s > heartbeat_s:
                call.pause(heartbeat_s)
                yield b": waiting\n\n"
                left_s -= heartbeat_s
            call.pause(left_s)
            yield b"data: " + dumps({"number": number}) + b"\n\n"
        yield b"data: [DONE]\n\n"
    except ClientLeft:
        return
    except ChatError:
        pass
    call.end()


def _close(call: Call, store: Store, note: str) -> None:
    """The answer is over, or its caller is gone; may be called again."""
    if call.connection is not None:
        call.connection.unwatch()
    if call.total_ms is None:
        _note_left(store, note)
    call.end()


def _note_left(store: Store, note: str) -> None:
    now = int(time.time())

    def write(tx: statements.Tx) -> None:
        statements.drop_meta(tx, "probe:", str(now - KEPT_S))
        statements.put_meta(tx, f"probe:{note}", str(now))

    if note:
        with suppress(StoreUnavailable):
            store.write(write)
