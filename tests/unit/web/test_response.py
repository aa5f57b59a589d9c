"""Headers that say where an answer is not what was asked for."""

from chatapi.chat import ChatJob
from chatapi.web.response import Answer, name_differences


def told(job, model="a/b", ignored=()):
    response = Answer(b"")
    name_differences(response, job, model, ignored)
    return response.headers


def test_fifty_fields_are_named_whoever_left_them_out():
    job = ChatJob(model="a/b", messages=[], ignored=tuple(f"mine{i}" for i in range(40)))
    names = told(job, ignored=("mine1", *(f"yours{i}" for i in range(40))))["X-Ignored-Fields"].split(", ")
    assert len(names) == 49, "one of the fifty was named twice"
    assert names[0] == "mine0" and names[-1] == "yours8"


def test_what_is_as_it_was_asked_for_is_not_named():
    headers = told(ChatJob(model="a/b", messages=[]))
    assert "X-Ignored-Fields" not in headers and "X-Requested-Model" not in headers
    assert told(ChatJob(model="a/b", messages=[]), "c/d")["X-Requested-Model"] == "a/b"
