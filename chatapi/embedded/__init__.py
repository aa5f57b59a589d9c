"""The embedded engine: a real Hugging Face model on this machine, for `make run` without a token.

Here is what the gateway knows of it; `python -m chatapi.embedded COMMAND ARGS…` starts it and becomes COMMAND.
"""

import re
import socket
from pathlib import Path
from urllib.parse import urlsplit

from ..languages import _
from ..settings import HubModel

MODEL_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
# Of each slot, not of all together: with one cache for all (kv_unified) llama.cpp ends every answer under way when
# that is full. 4 x 2048 tokens of SmolLM2 are 189 MB of the engine's 350.
CONTEXT_TOKENS = 2048
# Small models that speak Portuguese as well as English (and more), with what their file weighs.
MULTILINGUAL = (
    ("Qwen/Qwen2.5-0.5B-Instruct-GGUF", "0.5 GB"),
    ("Qwen/Qwen2.5-1.5B-Instruct-GGUF", "1.1 GB"),
    ("ggml-org/SmolLM3-3B-GGUF", "1.9 GB"),
)


class EngineError(Exception):
    """The engine cannot run; the text says why, and what to do."""


def model_id(model: Path | HubModel | None) -> str:
    """The id under which the engine's model answers: its repository's on the Hub, or the name of its GGUF file."""
    if not model:
        return MODEL_ID
    if isinstance(model, HubModel):
        return model.repo
    return re.sub(r"[^A-Za-z0-9._-]+", "-", model.stem).strip(".-") or "local-model"


def is_healthy(port: int) -> bool:
    """Whether an engine answers on 127.0.0.1:`port`."""
    # By hand: http.client would bring ssl into gunicorn's master, before a gevent worker has patched it.
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
            return b" 200 " in connection.recv(64)
    except OSError:
        return False


def check_health(url: str) -> str:
    """In a few words that the engine at `url` answers. Raises EngineError."""
    if not is_healthy(urlsplit(url).port or 0):
        raise EngineError(_("the embedded engine does not answer; it is started again when it has ended"))
    return _("answers")
