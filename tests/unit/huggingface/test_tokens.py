"""Tokens that an upstream does not report: counted by the model's own tokenizer where it is at hand, else estimated."""

import time
from dataclasses import replace

import pytest
from support.heard import wait_until
from support.hub import put_tokenizer

from chatapi import create_app
from chatapi.chat import Usage, estimated
from chatapi.huggingface import tokenizers as tokens
from chatapi.huggingface.tokenizers import MOST_CHARACTERS, Tokenizers

MESSAGES = [{"role": "user", "content": "one two three"}]
# Models whose upstream reports nothing, whether streamed, and what a chat template adds to the prompt.
SILENT = [("test/usage-nowhere", True, 4), ("classic/any", False, 0), ("classic/any", True, 0)]


def counted(tokenizers, model, usage, seconds=10):
    """What it counts once the tokenizer is loaded, which it does in the background."""
    deadline = time.monotonic() + seconds
    while (found := tokenizers.count(model, usage)).source != "tokenizer" and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def test_the_first_is_estimated_and_the_next_are_counted(tmp_path):
    put_tokenizer(tmp_path, "a/b")
    tokenizers, usage = Tokenizers(tmp_path), estimated(MESSAGES, "four")
    found = counted(tokenizers, "a/b", usage)
    assert found == Usage(len("one two three") + 4, len("four"), source="tokenizer")
    assert tokenizers.count("a/b", usage) == found


@pytest.mark.parametrize("model", ["a/other", "../../../etc", "a/b/c"])
def test_without_a_tokenizer_it_stays_an_estimate(tmp_path, model):
    put_tokenizer(tmp_path, "a/b")
    usage = estimated(MESSAGES, "four")
    assert counted(Tokenizers(tmp_path), model, usage, seconds=0.3) == usage


def test_a_tokenizer_that_cannot_be_read_is_told_once(tmp_path, caplog):
    def told():
        return [record for record in caplog.records if "cannot be used" in record.getMessage()]

    put_tokenizer(tmp_path, "a/b").write_text("{")
    tokenizers, usage = Tokenizers(tmp_path), estimated(MESSAGES, "four")
    assert tokenizers.count("a/b", usage) == usage
    assert wait_until(told)
    assert tokenizers.count("a/b", usage) == usage
    assert len(told()) == 1


def test_what_is_not_counted(tmp_path):
    put_tokenizer(tmp_path, "a/b")
    tokenizers, reported = Tokenizers(tmp_path), Usage(1, 2)
    assert counted(tokenizers, "a/b:fastest", estimated(MESSAGES, "x")).completion_tokens == 1, "whoever serves it"
    assert tokenizers.count("a/b", reported) is reported, "the upstream has counted"
    assert tokenizers.count("a/b", estimated(MESSAGES, "x" * (MOST_CHARACTERS + 1))).source == "estimate"
    usage = estimated(MESSAGES, "four")
    assert Tokenizers(tmp_path / "nowhere").count("a/b", usage) is usage, "nothing is there"


def test_counting_runs_apart(tmp_path, monkeypatch):
    put_tokenizer(tmp_path, "a/b")
    ran = []
    monkeypatch.setattr(tokens, "in_thread", lambda work: (ran.append(1), work())[1])
    counted(Tokenizers(tmp_path), "a/b", estimated(MESSAGES, "x"))
    assert len(ran) == 2  # to load, and to count


@pytest.mark.parametrize("model, stream, overhead", SILENT)
def test_answer_header_and_ledger_agree(settings, upstream, tmp_path, model, stream, overhead):
    upstream.behave("classic/any", "ok")
    put_tokenizer(tmp_path, model)
    app = create_app(replace(settings, hf_home=tmp_path, database_url=f"sqlite:///{tmp_path}/ledger.db"))
    client, body = app.test_client(), {"model": model, "messages": MESSAGES, "stream": stream}
    assert client.post("/v1/chat/completions", json=body).get_data()  # loads the tokenizer
    time.sleep(0.3)
    asked = {**body, "stream_options": {"include_usage": True}} if stream else body
    answer = client.post("/v1/chat/completions", json=asked)
    text, query = answer.get_data(as_text=True), "SELECT * FROM calls ORDER BY id"
    row = app.extensions["chatapi"].store.read(lambda tx: tx.exec_driver_sql(query).mappings().all())[-1]
    assert (row["usage_source"], row["prompt_tokens"]) == ("tokenizer", len("one two three") + overhead)
    assert f'"prompt_tokens":{row["prompt_tokens"]},"completion_tokens":{row["completion_tokens"]}' in text
    assert stream or answer.headers["X-Usage-Source"] == "tokenizer"
