"""How far a call goes through chatapi/: a stranger has to read what it enters, and each station costs time."""

import sys
from pathlib import Path

import pytest

import chatapi

ROOT = f"{Path(chatapi.__file__).parent}/"
BODY = {"model": "test/ok", "messages": [{"role": "user", "content": "hi"}]}


def files_entered(client, body):
    """The files whose functions were called on this thread, in order; the same one once in a row."""
    entered = []

    def note(frame, what, _argument):
        file = frame.f_code.co_filename
        if what == "call" and file.startswith(ROOT) and entered[-1:] != [file]:
            entered.append(file)

    earlier = sys.getprofile()
    sys.setprofile(note)
    try:
        with client.post("/v1/chat/completions", json=body) as response:
            response.get_data()
    finally:
        sys.setprofile(earlier)
    assert response.status_code == 200
    return entered


@pytest.mark.parametrize("stream, files, moves", [(False, 22, 45), (True, 30, 130)], ids=["whole", "stream"])
def test_a_call_enters_few_files_and_seldom_goes_back_and_forth(app, upstream, stream, files, moves):
    body = {**BODY, "stream": stream}
    client = app.test_client()
    for _ in range(2):  # what is made once a process is made
        client.post("/v1/chat/completions", json=body).get_data()
    ways = [
        files_entered(client, body) for _ in range(3)
    ]  # by chance more: what comes every few seconds, packets in halves
    shortest = min(ways, key=len)
    assert len(set(shortest)) <= files
    assert len(shortest) - 1 <= moves
