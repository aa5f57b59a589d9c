"""Tokens counted by the model's own tokenizer, under gunicorn."""

from support.gateways import serve
from support.hub import put_tokenizer

MESSAGES = [{"role": "user", "content": "one two three"}]


def test_under_gunicorn_too(upstream, gateway_env, tmp_path):
    upstream.behave("classic/any", "ok")
    put_tokenizer(tmp_path, "classic/any")
    with serve({**gateway_env, "HF_HOME": str(tmp_path)}) as gateway:
        for _ in range(50):
            answer = gateway.post("/v1/chat/completions", {"model": "classic/any", "messages": MESSAGES})
            if answer.headers["X-Usage-Source"] == "tokenizer":
                break
    assert answer.headers["X-Usage-Source"] == "tokenizer"
    assert answer.json()["usage"]["prompt_tokens"] == len("one two three")
