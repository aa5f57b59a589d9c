"""What the gateway is measured beside besides hello: nginx alone, and LiteLLM's proxy and Portkey's gateway.

The last two are there where `make bench-peers` has installed them, each in an environment of its own below BENCH_PEERS
(default: `.bench`). Neither keeps keys, limits or a ledger here: LiteLLM would need PostgreSQL and Prisma's engines for
them, Portkey has none. So they do less for a call than the gateway does.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from servers import ROOT, SERVER_CORE, Server, Upstream, environment, free_port, nginx, running

PEERS = Path(os.environ.get("BENCH_PEERS", ROOT / ".bench")).resolve()
LITELLM = PEERS / "litellm/bin/litellm"
PORTKEY = PEERS / "portkey/node_modules/@portkey-ai/gateway/build/start-server.js"
MODELS = ("bench/whole", "bench/stream", "bench/paced")
MASTER_KEY = "sk-bench-master"

PROXY = """
  upstream canned {{ server 127.0.0.1:{canned}; keepalive 512; }}
  upstream paced {{ server 127.0.0.1:{paced}; keepalive 2048; }}
  map $http_x_model $model_server {{ default canned; "bench/paced" paced; }}
  map $http_x_model $model_path {{ default ""; "bench/stream" "/stream"; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_buffering off;
    location / {{ proxy_pass http://$model_server$model_path$uri; }}
  }}
"""


class ByHeader(Server):
    """nginx is told the model by a header, for it reads no body."""

    def headers_for(self, model: str) -> dict[str, str]:
        return {**self.headers, "X-Model": model}


@contextlib.contextmanager
def proxy_pass(up: Upstream) -> Iterator[Server]:
    """nginx that hands each call on."""
    port = free_port()
    http = PROXY.format(canned=up.canned, paced=up.paced, port=port)
    with nginx("nginx", http, port, SERVER_CORE, kind=ByHeader) as server:
        yield server


@contextlib.contextmanager
def litellm(up: Upstream) -> Iterator[Server]:
    """LiteLLM's proxy with one worker, and its one key that needs no database."""
    port = free_port()
    parameters = {m: {"model": f"openai/{m}", "api_base": f"{up.url(m)}/v1", "api_key": "none"} for m in MODELS}
    listed = [{"model_name": model, "litellm_params": found} for model, found in parameters.items()]
    # JSON is YAML.
    config = json.dumps({"model_list": listed, "general_settings": {"master_key": MASTER_KEY}})
    env = environment(LITELLM_LOCAL_MODEL_COST_MAP="True", LITELLM_TELEMETRY="False", LITELLM_MODE="PRODUCTION")
    options = ["--config", "config.yaml", "--host", "127.0.0.1", "--num_workers", "1"]
    command = [str(LITELLM), *options, "--port", str(port)]
    headers = {"Authorization": f"Bearer {MASTER_KEY}"}
    with running("litellm", command, port, SERVER_CORE, env, headers=headers, files={"config.yaml": config}) as server:
        yield server


class Portkey(Server):
    """Portkey is told where a model is by headers."""

    up: Upstream

    def headers_for(self, model: str) -> dict[str, str]:
        return {**self.headers, "x-portkey-provider": "openai", "x-portkey-custom-host": f"{self.up.url(model)}/v1"}


@contextlib.contextmanager
def portkey(up: Upstream) -> Iterator[Server]:
    """Portkey's gateway on Node, which passes on whatever key it is given."""
    port = free_port()
    command = ["node", str(PORTKEY), f"--port={port}", "--headless"]
    headers = {"Authorization": "Bearer key"}
    with running("portkey", command, port, SERVER_CORE, environment(), headers=headers, kind=Portkey) as server:
        server.up = up
        yield server


def installed() -> dict[str, Callable[[Upstream], contextlib.AbstractContextManager[Server]]]:
    """How each that is here is started, by its name."""
    found = {"nginx": proxy_pass}
    if LITELLM.exists():
        found["litellm"] = litellm
    if PORTKEY.exists():
        found["portkey"] = portkey
    return found
