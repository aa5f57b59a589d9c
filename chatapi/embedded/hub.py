"""GGUF files of a repository on the Hub: which are meant, and their download into Hugging Face's own cache.

huggingface_hub finds and transfers them. It forgets what it has of a file when its process ends, and a model of some
gigabytes comes over many a line in more than one evening; so the part that has come is kept here.
"""

import errno
import fcntl
import hashlib
import importlib.util
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..languages import N_, _
from ..settings import HubModel, Settings
from . import EngineError

# What is taken when nobody said which: good and small first.
QUANTISATIONS = ("Q4_K_M", "Q4_K_S", "Q4_0", "Q5_K_M", "Q6_K", "Q8_0")
SPARE_BYTES = 100_000_000  # of the disk stay free


def find_files(model: HubModel, settings: Settings) -> Sequence[Path]:
    """The files of `model`, from Hugging Face's cache on this machine or else downloaded. Raises EngineError."""
    cache = settings.hf_home.expanduser() / "hub"
    return _find_cached(model, cache) or _download(model, cache, settings.hf_endpoint, settings.hf_token)


def choose(model: HubModel, names: Iterable[str]) -> list[str]:
    """Those of a repository's file `names` that make up the GGUF that is meant. Raises EngineError naming the others.

    A large GGUF is split into `…-00001-of-00003.gguf` and so on.
    """
    every = sorted(names)
    models = _group_parts(every)
    wanted = model.choice.lower()
    if not models:
        text = N_("it has no GGUF file. Name a repository that has some; often it is called {repo}-GGUF.")
        raise EngineError(_(text, repo=model.repo))
    if wanted.endswith(".gguf"):
        fits = [parts for parts in models if any(wanted in (p.lower(), p.lower().rpartition("/")[2]) for p in parts)]
    elif wanted:
        fits = [parts for parts in models if _is_quantised(parts[0], wanted)]
    else:
        by_rank = ([parts for parts in models if _is_quantised(parts[0], q)] for q in QUANTISATIONS)
        fits = models if len(models) == 1 else next(filter(None, by_rank), models)
    if len(fits) != 1:
        text = N_("it has no {choice}. Name what it has, as {example}; that is {there}.")
        if fits:
            text = N_("this could mean several of its files. Name one, as {example}; it has {there}.")
        example = f"{model.repo}:{(fits or models)[0][0]}"
        there = ", ".join(parts[0] for parts in models[:20]) + (" …" if len(models) > 20 else "")
        raise EngineError(_(text, choice=model.choice, example=example, there=there))
    return fits[0]


_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)
_NO_MODEL = re.compile(r"mmproj|imatrix", re.IGNORECASE)  # a model's eyes, and what a quantiser has measured


def _group_parts(names: Iterable[str]) -> list[list[str]]:
    """GGUF files, the parts of a split one together; a split one that lacks parts is left out."""
    whole: dict[str, list[str]] = {}
    for name in names:
        if name.lower().endswith(".gguf") and not _NO_MODEL.search(name):
            whole.setdefault(_PART.sub("", name), []).append(name)
    return [parts for parts in whole.values() if not (part := _PART.search(parts[0])) or int(part[2]) == len(parts)]


def _is_quantised(name: str, quantisation: str) -> bool:
    return re.search(rf"(?<![a-z0-9]){re.escape(quantisation)}(?![a-z0-9_])", name, re.IGNORECASE) is not None


def _find_cached(model: HubModel, cache: Path) -> list[Path]:
    """The model's files, where all of them are here: then nobody is asked, and no network is needed."""
    repo = _folder(model.repo, cache)
    try:
        snapshot = repo / "snapshots" / (repo / "refs" / "main").read_text().strip()
        names = [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*.gguf") if path.exists()]
        return [snapshot / name for name in choose(model, names)]
    except (OSError, EngineError):
        return []


def _download(model: HubModel, cache: Path, endpoint: str, token: str | None) -> list[Path]:
    if importlib.util.find_spec("huggingface_hub") is None:
        install = "pip install -r requirements-embedded.txt"
        raise EngineError(_("{model}: to download it run: {install}", model=model, install=install))
    from huggingface_hub import HfApi

    with _explain_failures(model, endpoint):
        info = HfApi(endpoint=endpoint, token=token).model_info(model.repo, files_metadata=True)
        listed = {file.rfilename: file for file in info.siblings or ()}
        names = choose(model, listed)
        _check_space(model, [listed[name] for name in names], cache)
        return [_download_file(model.repo, name, str(info.sha), cache, endpoint, token) for name in names]


def _download_file(repo: str, name: str, commit: str, cache: Path, endpoint: str, token: str | None) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.utils._headers import build_hf_headers

    url = hf_hub_url(repo, name, revision=commit, endpoint=endpoint)
    headers = build_hf_headers(token=token)
    known = get_hf_file_metadata(url, headers=headers, endpoint=endpoint)
    if known.etag:
        blob = _folder(repo, cache) / "blobs" / known.etag
        # The address and not where it leads to: that one expires. httpx drops our token on the way to another host.
        _fetch(url, headers, blob, known.size, name)
    # Finds the blob, and puts the name to it.
    return Path(hf_hub_download(repo, name, cache_dir=cache, endpoint=endpoint, token=token))


def _fetch(url: str, headers: dict[str, str], blob: Path, size: int | None, name: str) -> None:
    """Download `url` to `blob`, from where an earlier attempt stopped."""
    from huggingface_hub.file_download import http_get

    blob.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(blob)
    with partial.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # another start may be at it: then it is here when we may go on
        if not blob.exists():
            here = file.tell()
            http_get(
                url,
                file,
                resume_size=here if size is None or here <= size else file.truncate(0),
                headers=headers,
                expected_size=size,
                displayed_filename=name,
            )
            file.flush()
            _check_whole(partial, blob.name)
            partial.rename(blob)


def _folder(repo: str, cache: Path) -> Path:
    return cache / f"models--{repo.replace('/', '--')}"


def _partial(blob: Path) -> Path:
    return blob.with_name(f"{blob.name}.incomplete")


def _check_whole(path: Path, etag: str) -> None:
    # A large file's ETag is its SHA-256; only what came in pieces can be whole in length and wrong all the same.
    if len(etag) == 64:
        with path.open("rb") as file:
            right = hashlib.file_digest(file, "sha256").hexdigest() == etag
        if not right:
            path.unlink()
            raise EngineError(_("what came is damaged and has been removed. Start again."))


def _check_space(model: HubModel, meant: Sequence[Any], cache: Path) -> None:
    """Refuse before a byte is sent what could not be kept. Raises EngineError."""
    size = sum(file.size or 0 for file in meant)
    folder = next(path for path in (cache, *cache.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    if free < size - sum(_bytes_here(model, file, cache) for file in meant) + SPARE_BYTES:
        text = N_(
            "it is {size:.0f} MB, and the disk of {folder} has {free:.0f} MB left. "
            "Make room there, or set HF_HOME to a folder on a larger disk."
        )
        raise EngineError(_(text, size=size / 1e6, folder=folder, free=free / 1e6))


def _bytes_here(model: HubModel, file: Any, cache: Path) -> int:
    blob = _folder(model.repo, cache) / "blobs" / (file.lfs.sha256 if file.lfs else str(file.blob_id))
    return sum(path.stat().st_size for path in (blob, _partial(blob)) if path.exists())


@contextmanager
def _explain_failures(model: HubModel, endpoint: str) -> Iterator[None]:
    """Each way in which a download fails becomes an EngineError that says what to do."""
    try:
        yield
    except EngineError as error:
        raise EngineError(f"{model}: {error}") from None
    except Exception as error:  # of three libraries, and of an answer in any shape
        raise EngineError(f"{model}: {_explain(error, model.repo, endpoint)}") from None


def _explain(error: Exception, repo: str, endpoint: str) -> str:
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    match error:
        case errors.GatedRepoError():
            text = N_(
                "it is gated. Accept its conditions at {page} with your account, and set HF_TOKEN to one of its "
                "tokens ({tokens})."
            )
        case errors.DisabledRepoError():
            text = N_("{page} has been disabled. Name another model.")
        case errors.RepositoryNotFoundError():
            text = N_("there is no {page}, or it is private. Look at the spelling, or set HF_TOKEN.")
        case errors.HfHubHTTPError() if status == 401:
            text = N_("{endpoint} refuses HF_TOKEN. Set it to a token that is valid, or to none.")
        case errors.HfHubHTTPError() if status:
            text = N_("{endpoint} answered {status}. Start again later.")
        case errors.OfflineModeIsEnabled():
            text = N_("it is not in HF_HOME, and HF_HUB_OFFLINE is set. Start once without that.")
        case ValueError() | LookupError() | TypeError():
            text = N_("{endpoint} does not answer as the Hub does. Look at HF_ENDPOINT.")
        case OSError(errno=errno.ENOSPC):
            text = N_("the disk is full. Make room there, or set HF_HOME to a folder on a larger disk.")
        case OSError(errno=int(), strerror=str(why)):
            return f"{error.filename or 'HF_HOME'}: {why}."
        case _:
            text = N_(
                "{endpoint} is not reached, or stopped answering ({error}). Look at the network and start again: what "
                "has come is kept."
            )
    page, tokens = f"{endpoint}/{repo}", f"{endpoint}/settings/tokens"
    return _(text, page=page, tokens=tokens, endpoint=endpoint, status=status, error=type(error).__name__)
