"""Which skin and model a request is for, and what Hugging Face refuses before any model answers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from support.upstream.answers import PIECES, chat_whole, count_tokens, play
from support.upstream.exchange import JSON, PLAIN, Exchange
from support.upstream.refusals import ERRORS, Fault, model_error

SUFFIX = re.compile(
    "|fastest|cheapest|preferred|baseten|cerebras|cohere|deepinfra|fal-ai|featherless-ai|fireworks-ai|groq|"
    "hf-inference|novita|nscale|ovhcloud|publicai|replicate|scaleway|together|wavespeed|zai-org"
)
MAX_TGI_BODY, MAX_INPUT, MAX_TOTAL = 2_000_000, 1024, 2048


def route(x: Exchange) -> Callable[[Exchange], None]:
    """Read the path: skin, stream and model into the exchange; who shall answer is returned."""
    if prefix := re.match(r"/at/([^/]+/[^/]+)(/.*|$)", x.path):
        x.own, x.call.model, x.path = True, prefix[1], prefix[2] or "/"
    try:
        x.call.body = json.loads(x.call.raw_body)
    except ValueError:
        x.call.body = None
    for method, pattern, skin, handler in ROUTES:
        if method == x.call.method and (match := re.fullmatch(pattern, x.path)):
            x.skin, x.own = skin, x.own or skin == "generate"
            named = match.groupdict().get("id") or x.body.get("model")
            if x.call.model is None and isinstance(named, str):
                x.call.model = named.partition(":")[0]
            streams = skin == "chat" or x.path == "/"
            x.stream = x.path == "/generate_stream" or (streams and x.body.get("stream") is True)
            return handler
    return lambda x: x.send_raw(404, b"Not Found", PLAIN)


def completion(x: Exchange) -> None:
    """Any generation: who asks, what is asked, and only then the behaviour."""
    for check in (refuse_caller, refuse_media, refuse_model):
        if answer := check(x):
            return answer.send(x)
    if x.skin == "generate" and refuse_generate(x):
        return None
    behaviour = x.upstream.behaviour_for(x)
    (behaviour or unknown_model(x))(x)


def refuse_caller(x: Exchange) -> Fault | None:
    if x.upstream.token is None:
        return None
    token = x.call.headers.get("authorization")
    slugs = {f"Bearer {x.upstream.token}": None, "Bearer hf_noperm": "no-permission", "Bearer hf_broke": "depleted"}
    slug = slugs.get(token, "endpoint-401" if x.own else "bad-token" if token else "no-token")
    return ERRORS[slug] if slug else None


def refuse_media(x: Exchange) -> Fault | None:
    if x.own and len(x.call.raw_body) > MAX_TGI_BODY:
        return ERRORS["tgi-413"]
    if not x.call.headers.get("content-type", "").startswith(JSON):
        return ERRORS["media-type"]
    return None if isinstance(x.call.body, dict) else ERRORS["bad-json"]


def refuse_model(x: Exchange) -> Fault | None:
    suffix = str(x.body.get("model", "")).partition(":")[2]
    if x.skin != "chat" or x.own or SUFFIX.fullmatch(suffix):
        return None
    message = f"the provider you attempted to explicitly specify '{suffix}' is not a valid provider."
    return model_error(message, "model_not_supported")


def unknown_model(x: Exchange) -> Fault:
    if x.own:
        slug = "vllm-not-found" if x.skin == "chat" else "does-not-exist"
        return ERRORS[slug]
    if x.skin == "classic":
        return ERRORS["provider-unsupported"]
    if "/" not in x.model:
        return model_error(f"The requested model '{x.model}' does not exist", "model_not_found")
    message = f"The requested model '{x.model}' is not supported by any provider you have enabled."
    return model_error(message, "model_not_supported")


def refuse_generate(x: Exchange) -> bool:
    """TGI's own checks (HF 2.2): a wrong type is a 422 always, a wrong value an event in a stream."""
    if text := deserialize_error(x.body):
        x.send_raw(422, f"Failed to deserialize the JSON body into the target type: {text}".encode(), PLAIN)
    elif text := validation_error(x):
        error = {"error": f"Input validation error: {text}", "error_type": "validation"}
        if x.stream:
            play(x, [error])
        else:
            x.send_json(422, error)
    else:
        return False
    return True


def deserialize_error(body: dict[str, Any]) -> str | None:
    if not isinstance(body.get("inputs"), str):
        return "missing field `inputs` at line 1 column 2"
    for name, value in (body.get("parameters") or {}).items():
        kind, expected = TGI_TYPES.get(name, (object, ""))
        wrong_bool = isinstance(value, bool) and kind is not bool and kind is not object
        if value is not None and (wrong_bool or not isinstance(value, kind)):
            shown = f"{type(value).__name__} {json.dumps(value)}".replace("str ", "string ")
            return f"parameters.{name}: invalid type: {shown}, expected {expected} at line 1 column 2"
    return None


def validation_error(x: Exchange) -> str | None:
    inputs, given = x.body["inputs"], x.parameters
    if not inputs:
        return "`inputs` cannot be empty"
    for name, valid, text in TGI_RULES:
        if given.get(name) is not None and not valid(given[name]):
            return text.format(len(given[name]) if name == "stop" else given[name])
    tokens, new = count_tokens(inputs), given.get("max_new_tokens") or 0
    if tokens + new > MAX_TOTAL:
        return (
            f"`inputs` tokens + `max_new_tokens` must be <= {MAX_TOTAL}. "
            f"Given: {tokens} `inputs` tokens and {new} `max_new_tokens`"
        )
    return f"`inputs` must have less than {MAX_INPUT} tokens. Given: {tokens}" if tokens > MAX_INPUT else None


FLOATS = ("temperature", "top_p", "typical_p", "repetition_penalty", "frequency_penalty")
WHOLES = ("top_k", "max_new_tokens", "seed", "truncate", "best_of", "top_n_tokens")
BOOLS = ("do_sample", "return_full_text", "details", "watermark")
TGI_TYPES: dict[str, tuple[Any, str]] = {
    **dict.fromkeys(FLOATS, ((int, float), "f32")),
    **dict.fromkeys(WHOLES, (int, "u32")),
    **dict.fromkeys(BOOLS, (bool, "bool")),
    "stop": (list, "a sequence"),
}
TGI_RULES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("temperature", lambda v: v > 0, "`temperature` must be strictly positive"),
    ("top_p", lambda v: 0 < v < 1, "`top_p` must be > 0.0 and < 1.0"),
    ("typical_p", lambda v: 0 < v < 1, "`typical_p` must be > 0.0 and < 1.0"),
    ("top_k", lambda v: v > 0, "`top_k` must be strictly positive"),
    ("repetition_penalty", lambda v: v > 0, "`repetition_penalty` must be strictly positive"),
    ("frequency_penalty", lambda v: -2 <= v <= 2, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ("max_new_tokens", lambda v: v > 0, "`max_new_tokens` must be strictly positive"),
    ("stop", lambda v: len(v) <= 4, "`stop` supports up to 4 stop sequences. Given: {}"),
)


def models(x: Exchange) -> None:
    if x.own:
        one = {"id": x.model, "object": "model", "created": 0, "owned_by": x.model}
        return x.send_json(200, {"object": "list", "data": [one]})
    return x.send_json(200, {"object": "list", "data": [model_card(id) for id in x.upstream.served()]})


def model(x: Exchange) -> None:
    if x.model in x.upstream.served():
        return x.send_json(200, model_card(x.model))
    fault = model_error(f"The requested model '{x.model}' does not exist", "model_not_found")
    return fault._replace(status=404).send(x)


def model_card(id: str) -> dict[str, Any]:
    """A row of the router's list (HF 1.5): only `provider` and `status` are always there."""
    owner = id.partition("/")[0]
    return {"id": id, "object": "model", "created": 1770000000, "owned_by": owner, **json.loads(MODEL_FACTS)}


MODEL_FACTS = """{
"architecture":{"input_modalities":["text"],"output_modalities":["text"]},
"providers":[
 {"provider":"together","status":"live","context_length":131072,"pricing":{"input":0.6,"output":0.9},
  "supports_tools":true,"supports_structured_output":false,
  "first_token_latency_ms":612,"throughput":41.5,"is_model_author":false},
 {"provider":"featherless-ai","status":"live","context_length":32768,"is_model_author":false},
 {"provider":"novita","status":"error"}]}"""


def redirected(x: Exchange) -> None:
    """Where `test/redirect` points to. It answers well, so only `calls` tells that somebody followed."""
    x.send_json(200, chat_whole(x, PIECES, "stop"))


ROUTES: tuple[tuple[str, str, str, Callable[[Exchange], None]], ...] = (
    ("POST", r"/v1/chat/completions", "chat", completion),
    ("POST", r"/hf-inference/models/(?P<id>.+)/v1/chat/completions", "chat", completion),
    ("POST", r"/hf-inference/models/(?P<id>.+)", "classic", completion),
    ("POST", r"/generate|/generate_stream|/", "generate", completion),
    ("GET", r"/v1/models", "chat", models),
    ("GET", r"/v1/models/(?P<id>.+)", "chat", model),
    ("GET", r"/health", "generate", lambda x: x.send_raw(200, b"", "")),
    ("GET", r"/redirected", "chat", redirected),
    ("POST", r"/redirected", "chat", redirected),
)
