"""Counts tokens with a model's own tokenizer, where one lies on this machine and the library `tokenizers` is there.

Nothing is downloaded: tokenizers are looked for where Hugging Face's tools keep what they have downloaded. Loading and
counting run apart from whatever answers callers.
"""

import importlib.util
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..chat import Usage

log = logging.getLogger(__name__)

MOST_CHARACTERS = 1_000_000  # of one text; more is estimated


def _here(work: Callable[[], Any]) -> Any:
    return work()


# Runs work where it holds up nobody. A gevent worker puts a thread of the system's here: greenlets share one.
in_thread: Callable[[Callable[[], Any]], Any] = _here


class Tokenizers:
    """The tokenizers at hand under `home`, each loaded in the background when its model is first counted."""

    def __init__(self, home: Path) -> None:
        self._hub = Path(os.path.expanduser(home)) / "hub"
        self._usable = importlib.util.find_spec("tokenizers") is not None and self._hub.is_dir()
        self._loaded: dict[str, Any] = {}

    def count(self, model: str, usage: Usage) -> Usage:
        """`usage`, counted where it was only estimated and the tokenizer of `model` is loaded."""
        if not self._usable or usage.texts is None or max(map(len, usage.texts)) > MOST_CHARACTERS:
            return usage
        if model not in self._loaded:
            self._loaded[model] = None
            threading.Thread(target=self._load, args=(model,), daemon=True).start()
        tokenizer = self._loaded[model]
        if tokenizer is None:
            return usage
        prompt, answer = in_thread(
            lambda: [len(tokenizer.encode(t, add_special_tokens=False)) for t in usage.texts or ()]
        )
        return Usage(prompt + usage.overhead, answer, source="tokenizer")

    def _load(self, model: str) -> None:
        folder = self._hub / ("models--" + model.partition(":")[0].replace("/", "--")) / "snapshots"
        found = max(folder.glob("*/tokenizer.json"), key=lambda path: path.stat().st_mtime, default=None)
        if found is None:
            return
        try:
            from tokenizers import Tokenizer

            self._loaded[model] = in_thread(lambda: Tokenizer.from_file(str(found)))
        except Exception as error:  # the library documents no narrower one
            log.warning("the tokenizer %s cannot be used: %s", found, error)
