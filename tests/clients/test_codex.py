"""codex as it is installed, configured as the guide says: one run without anybody at the keyboard."""

import re

import pytest
from support.clients import ADDRESS, MODEL, guide, run_shell, snippets
from support.upstream import chunk, play, say, script

pytestmark = pytest.mark.codex


def run_a_command(x):
    """Has codex run a command in its shell, and answers once it has."""
    if x.body["messages"][-1]["role"] == "tool":
        return say(x)
    function = {"name": "exec_command", "arguments": '{"cmd": "echo 32 degrees"}'}
    call = {"index": 0, "id": "call_1", "type": "function", "function": function}
    ending = script(x, (), "tool_calls")
    said = chunk(x, {"role": "assistant", "content": None, "tool_calls": [call]})
    return play(x, [said, *ending.closing, *ending.usage, *ending.done])


def test_codex_runs_a_command_and_tells_what_came_of_it(gateway, upstream, tmp_path):
    ((_, config),) = snippets(guide())["codex"]
    home = tmp_path / "codex"
    home.mkdir()
    (home / "config.toml").write_text(config.replace(ADDRESS, gateway.url))
    upstream.behave(MODEL, run_a_command)
    env = {"CODEX_HOME": str(home), "CHATAPI_API_KEY": "none"}
    shown = run_shell("codex", "codex exec --skip-git-repo-check 'How hot is it?' < /dev/null", env, tmp_path)
    assert "Hello from upstream." in shown
    first, second = (call.body for call in upstream.calls_for(MODEL))
    assert {tool["type"] for tool in first["tools"]} == {"function"}
    assert "client_metadata" not in first and "prompt_cache_key" not in first
    called, result = second["messages"][-2:]
    assert called["tool_calls"][0]["id"] == result["tool_call_id"] == "call_1"
    assert re.search(r"32 degrees", result["content"])
