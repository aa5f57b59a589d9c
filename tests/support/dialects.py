"""The routes, a request in the words of each, and the shape of an error on /api."""

NEW, LEGACY, V1 = "/api/chat/completions", "/api/huggingface-chat", "/v1/chat/completions"
RESPONSES, RENAMED = "/v1/responses", {"max_tokens": "max_output_tokens"}
ROUTES = (NEW, LEGACY)


def asking(route, model, text="hi there", **fields):
    """A request in the dialect of a route."""
    if route == LEGACY:
        return {"message": text, "model": model, **fields}
    if route == RESPONSES:
        return {"input": text, "model": model, **{RENAMED.get(name, name): value for name, value in fields.items()}}
    return {"messages": [{"role": "user", "content": text}], "model": model, **fields}


ENVELOPE_KEYS = {"code", "message", "retryable", "request_id"}


def check_error(answer, status, code, **facts):
    """An error in the envelope, with exactly the contract's keys."""
    body = answer.json() if callable(answer.json) else answer.json
    assert answer.status_code == status, body
    assert body.keys() == {"success", "error"}
    assert body["success"] is False
    error = body["error"]
    assert ENVELOPE_KEYS <= error.keys() <= ENVELOPE_KEYS | {"details", "upstream_status"}
    assert error["code"] == code
    assert len(error["message"]) > 10
    assert error["request_id"] == answer.headers["X-Request-Id"]
    for name, value in facts.items():
        assert error.get(name) == value, name
    return error
