"""Real clients in environments of their own, as `make clients` installs them: programs run there as they are.

    asked = run_python("openai-3", source, {"OPENAI_BASE_URL": gateway.url + "/v1"})

A client that is not installed skips its test, and fails it where CI=true and CI installs it.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from support.gateways import clean_environment
from support.upstream import BEHAVIOURS, Exchange, chat_whole, say, saying

FOLDER = Path(os.environ.get("CHATAPI_CLIENTS") or Path.home() / ".cache" / "chatapi-clients")
IN_CI = ("openai-3", "openai-2", "node")
WITHIN_S = 90
CITY = '{"city": "Belém", "degrees": 32}'
# Nobody is told that a test has run, and nothing is fetched.
QUIET = {
    "CREWAI_DISABLE_TELEMETRY": "true",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "PROMPTFOO_DISABLE_TELEMETRY": "1",
    "PROMPTFOO_DISABLE_UPDATE": "1",
    "PYTHONIOENCODING": "utf-8",
}


def run_python(environment: str, source: str, env: Mapping[str, str], home: Path) -> str:
    """What a Python program prints, run by the environment's own interpreter."""
    return run(environment, [str(folder(environment) / "bin" / "python"), "-"], source, env, home)


def run_node(source: str, env: Mapping[str, str], home: Path) -> str:
    """What an ES module prints; packages are found from the folder in which it runs."""
    return run("node", ["node", "--input-type=module", "-"], source, env, home, folder("node"))


def run_shell(environment: str, source: str, env: Mapping[str, str], home: Path) -> str:
    """What a shell prints whose commands are the environment's."""
    return run(environment, ["sh", "-eu"], source, env, home)


def run(
    environment: str, command: Sequence[str], source: str, env: Mapping[str, str], home: Path, cwd: Path | None = None
) -> str:
    programs = [str(folder(environment) / place) for place in ("bin", "node_modules/.bin")]
    clean = clean_environment(str(home))
    del clean["PYTHONPATH"]  # the client's packages, not ours
    done = subprocess.run(
        command,
        input=source,
        env={**clean, **QUIET, **env, "PATH": os.pathsep.join([*programs, clean["PATH"]])},
        cwd=cwd or home,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:] + done.stdout[-1000:]
    return done.stdout


def folder(environment: str) -> Path:
    """Where an environment is. Skips or fails the test where it is not installed."""
    if environment == "any":
        return FOLDER
    place = FOLDER / environment
    if not (place / "installed").exists():
        said = f"{place} is not installed: make clients CLIENTS={environment}"
        if os.environ.get("CI") and environment in IN_CI:
            pytest.fail(said)
        pytest.skip(said)
    return place


# --- models that do what clients try out


def call_then_say(x: Exchange) -> None:
    """Calls the weather, and answers once its result is there."""
    (say if x.body["messages"][-1]["role"] == "tool" else BEHAVIOURS["test/tool-calls"])(x)


def fill_in(x: Exchange) -> None:
    """Calls the one function that it is given, with a city; without one it says the city."""
    if not (tools := x.body.get("tools")):
        return saying(CITY)(x)
    function = {"name": tools[0]["function"]["name"], "arguments": CITY}
    call = {"id": "call_1", "type": "function", "function": function}
    return x.send_json(200, chat_whole(x, (), "tool_calls", content=None, tool_calls=[call]))


MODELS = {"clients/text": say, "clients/tools": call_then_say, "clients/json": saying(CITY), "clients/typed": fill_in}


# --- the guide for them

DOCS = Path(__file__).resolve().parents[2] / "docs"
ADDRESS, MODEL = "http://127.0.0.1:8000", "Qwen/Qwen2.5-7B-Instruct"


def snippets(text):
    """Heading → its fenced blocks as (language, source)."""
    sections = re.split(r"^## ", text, flags=re.M)[1:]
    blocks = {s.partition("\n")[0]: re.findall(r"^```(\w+)\n(.*?)^```$", s, re.M | re.S) for s in sections}
    return {heading: found for heading, found in blocks.items() if found}


def guide(name="clients.md"):
    return (DOCS / name).read_text()
