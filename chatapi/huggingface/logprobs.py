"""The log probabilities of a choice's tokens, in OpenAI's form. Pure."""

from typing import Any

from ..chat import Json


def read_logprobs(given: Any) -> Json | None:
    """The logprobs of a choice in OpenAI's form: lists of whole tokens, or null; what else is with them stays."""
    if not isinstance(given, dict):
        return None
    return {**given, **{key: _tokens(given.get(key)) for key in ("content", "refusal")}}


def _tokens(given: Any) -> list[Json] | None:
    if not isinstance(given, list):
        return None
    tokens = [token for token in given if _is_token(token)]
    return [{**_token(token), "top_logprobs": [_token(t) for t in _top(token) if _is_token(t)]} for token in tokens]


def _is_token(given: Any) -> bool:
    return (
        isinstance(given, dict) and isinstance(given.get("token"), str) and type(given.get("logprob")) in (int, float)
    )


def _token(token: Json) -> Json:
    read = token.get("bytes")
    whole = isinstance(read, list) and all(type(byte) is int for byte in read)
    return token if whole else {**token, "bytes": None}


def _top(token: Json) -> list[Any]:
    given = token.get("top_logprobs")
    return given if isinstance(given, list) else []
