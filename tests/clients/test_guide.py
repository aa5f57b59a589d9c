"""docs/clients.md: every snippet of it, run as it stands by the client that it is for."""

import re
import time

import pytest
from support.clients import ADDRESS, MODEL, guide, run_node, run_python, run_shell, snippets
from support.upstream import say, saying

pytestmark = pytest.mark.clients

HELLO = "Hello from upstream."
# Heading → the environment that has the client. "any" needs none.
INSTALLED = {
    "curl": "any",
    "openai-python": "openai-3",
    "openai-node": "node",
    "AI SDK": "node",
    "openai-agents": "openai-3",
    "pydantic-ai": "openai-3",
    "LangChain": "openai-3",
    "LangChain.js": "node",
    "langchain-huggingface": "openai-2",
    "huggingface_hub": "openai-3",
    "@huggingface/inference": "node",
    "LiteLLM": "openai-3",
    "instructor": "openai-2",
    "dspy": "openai-3",
    "Haystack": "openai-3",
    "LlamaIndex": "openai-2",
    "smolagents": "openai-3",
    "AutoGen": "openai-3",
    "Semantic Kernel": "semantic-kernel",
    "CrewAI": "crewai",
    "llm": "openai-3",
    "aider": "aider",
    "promptfoo": "promptfoo",
}


def ask_responses():
    """The clients of which the guide's table says that they ask `/v1/responses` by default."""
    (row,) = re.findall(r"^\| (.*) \| `/v1/responses` by default \|$", guide(), re.M)
    return set(re.findall(r"\[(.*?)\]", row))


def test_both_guides_have_the_same_snippets():
    english, portuguese = snippets(guide()), snippets(guide("clients.pt-BR.md"))
    assert list(english.values()) == list(portuguese.values())
    assert len(english) >= 23


def test_every_client_of_the_guide_is_run():
    assert INSTALLED.keys() | {"codex"} == snippets(guide()).keys()


@pytest.mark.parametrize("heading", INSTALLED)
def test_a_snippet_works_as_it_stands(gateway, upstream, tmp_path, heading):
    upstream.behave(MODEL, lambda x: saying('{"text": "' + HELLO + '"}')(x) if "response_format" in x.body else say(x))
    upstream.behave("openai/gpt-oss-120b", say)
    before = len(gateway.log_text())
    shown = run_blocks(INSTALLED[heading], snippets(guide())[heading], gateway.url, tmp_path)
    assert HELLO in shown
    asked = routes_asked(gateway, before)
    if heading in ask_responses():
        assert asked == {"/v1/responses"}
    else:
        assert "/v1/chat/completions" in asked


def run_blocks(environment, blocks, url, home):
    env = {"CHATAPI_API_KEY": "none", "LLM_USER_PATH": str(home)}
    shown = ""
    for language, source in blocks:
        source = source.replace(ADDRESS, url)
        if language == "python":
            shown += run_python(environment, source, env, home)
        elif language == "js":
            shown += run_node(source, env, home)
        elif language == "sh":
            shown += run_shell(environment, source, env, home)
        else:
            # A file: its first line, a comment, begins with its name.
            (home / re.match(r"# ([\w.-]+)", source)[1]).write_text(source)
    return shown


def routes_asked(gateway, before):
    """The routes in the log's lines since it was `before` characters long; lines are written in batches."""
    deadline = time.monotonic() + 5
    while not (asked := set(re.findall(r"/v1/(?:responses|chat/completions)", gateway.log_text()[before:]))):
        assert time.monotonic() < deadline, "the gateway was not asked"
        time.sleep(0.05)
    return asked
