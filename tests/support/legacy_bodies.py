"""Every legacy body that a test loads, or sends to a gateway: the preview is held against each of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from chatapi.errors import BadRequest
from chatapi.migration.rewrite import preview
from chatapi.schemas import envelope

MODEL = "test/default"
LARGE = 100_000  # characters of JSON: three programs are made of each body
ROUTE = "/api/huggingface-chat"

_heard: list[Any] = []
_known: set[str] = set()


def hear(path: str, body: Any) -> None:
    """Note what is sent to `path`."""
    if path.partition("?")[0] == ROUTE and isinstance(body, dict):
        _heard.append(body)


@contextmanager
def listening() -> Iterator[None]:
    """Note what this process's own gateways load."""
    read = envelope.legacy_fields

    def noting(body: Any) -> envelope.LegacyFields:
        _heard.append(body)
        return read(body)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envelope, "legacy_fields", noting)
        yield


def check_all_heard() -> int:
    """Hold the preview against what was heard since the last time, each body once; how many there were."""
    bodies, _heard[:] = list(_heard), []
    new = {text: body for body in bodies if (text := json.dumps(body, sort_keys=True, default=str)) not in _known}
    _known.update(new)
    for text, body in new.items():
        if len(text) <= LARGE:
            _check(body)
    _heard.clear()  # of the check's own
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
