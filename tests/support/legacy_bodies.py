"""Every legacy body that a test loads, or sends to a gateway: the preview is held against each of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from chatapi.errors import BadRequest
from chatapi.migration.rewrite import preview
from chatapi.schemas import envelope
from support.gateways import LEGACY_BODIES

MODEL = "test/default"
LARGE = 100_000  # characters: three programs are made of each body

_known: set[str] = set()


@contextmanager
def listening() -> Iterator[None]:
    """Note what this process's own gateways load."""
    read = envelope.legacy_fields

    def noting(body: Any) -> envelope.LegacyFields:
        LEGACY_BODIES.append(body)
        return read(body)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envelope, "legacy_fields", noting)
        yield


def check_all_heard() -> int:
    """Hold the preview against what was heard since the last time, each body once; how many there were."""
    bodies = list(LEGACY_BODIES)
    new = {text: body for body in bodies if (text := repr(body)) not in _known}
    _known.update(new)
    for text, body in new.items():
        if len(text) <= LARGE:
            _check(body)
    LEGACY_BODIES.clear()  # those of the check itself, too
    return len(new)


def _check(body: Any) -> None:
    """A body that the route takes is rewritten, for both routes, into the same request to the model; any other one is
    refused in the same words."""
    try:
        envelope.load_legacy(body, MODEL)
    except BadRequest as refused:
        with pytest.raises(BadRequest) as found:
            preview(body, MODEL, "http://127.0.0.1")
        assert (found.value.message, found.value.details) == (refused.message, refused.details)
        return
    made = preview(body, MODEL, "http://127.0.0.1")
    assert made["same_upstream_request"] is True, body
    assert all(
        made[name][language] for name in ("completions", "openai") for language in ("curl", "python", "javascript")
    )
