"""Bodies of requests, over gunicorn's readers of a length and of chunks, which know no limit and no deadline."""

import math
import time
from typing import Any

from ..errors import BadRequest, PayloadTooLarge
from ..languages import _
from .wire import Wire

READ_SIZE = 65_536
SKIPPED = 65_536  # so many unread bytes are read for the connection's sake, for so long; more closes it
SKIPPED_S = 1.0
# From so many bytes on, a chunked body must be more than framing: a byte to a chunk costs 6 µs each.
FRAMED = 1024 * 1024
LEAST_SHARE = 16


def read(reader: Any, wire: Wire, limit: int, deadline: float) -> bytes:
    """The whole body. Raises PayloadTooLarge over `limit` bytes, BadRequest when it breaks off or is late."""
    wire.read_deadline = deadline
    try:
        return _chunks(reader, wire, limit) if hasattr(reader, "parser") else _length(reader, limit)
    except Exception as error:
        # gunicorn's classes for bad chunks are known by their module.
        if isinstance(error, OSError) or type(error).__module__ == "gunicorn.http.errors":
            details = {"body": [_("is broken")]}
            raise BadRequest(_("The body could not be read to its end."), details=details) from None
        raise
    finally:
        wire.read_deadline = None


def _length(reader: Any, limit: int) -> bytes:
    length: int = reader.length
    if length > limit:
        raise too_large(limit)
    parts: list[bytes] = []
    while reader.length:
        # Below gunicorn's reader, which counts what it asks for, not what it gets.
        data: bytes = reader.unreader.read(min(READ_SIZE, reader.length))
        reader.length -= len(data)
        if not data:
            got = length - reader.length
            message = _("The body ended after {got} of {length} bytes.", got=got, length=length)
            raise BadRequest(message, details={"body": [_("is incomplete")]})
        parts.append(data)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _chunks(reader: Any, wire: Wire, limit: int) -> bytes:
    parts: list[bytes] = []
    size, began = 0, wire.received
    while data := reader.read(READ_SIZE):
        parts.append(data)
        size += len(data)
        if size > limit:
            raise too_large(limit)
        framing = wire.received - began - size
        if framing > FRAMED and framing * LEAST_SHARE > size:
            said = _("is cut too small")
            raise BadRequest(_("The body comes in too small chunks. Send larger ones."), details={"body": [said]})
    return b"".join(parts)


def too_large(limit: int) -> PayloadTooLarge:
    """What a body over `limit` bytes is refused with."""
    return PayloadTooLarge(
        _("The body is larger than {limit} bytes. Shorten the messages, or send smaller images.", limit=limit)
    )


def unread(reader: Any, wire: Wire) -> float:
    """Bytes that nobody has read: infinitely many where only reading can tell."""
    if hasattr(reader, "parser"):
        return 0 if reader.parser is None else math.inf
    length: int = reader.length
    return math.inf if length and wire.continues else length


def skip(reader: Any, wire: Wire) -> bool:
    """Read what is left of a body of known length. Returns whether that came in time."""
    wire.read_deadline = time.monotonic() + SKIPPED_S
    try:
        while reader.length and (data := reader.unreader.read(reader.length)):
            reader.length -= len(data)
    except OSError:
        return False
    finally:
        wire.read_deadline = None
    return not reader.length
