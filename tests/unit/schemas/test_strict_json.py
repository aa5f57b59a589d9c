"""Bodies read in time and memory that grow with them only: what is counted before it is built, and what that costs."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fuzz import json_values
from support.tables import raised

from chatapi.errors import BadRequest, ChatError, InvalidJSON
from chatapi.languages import use
from chatapi.schemas import strict_json
from chatapi.schemas.strict_json import MAX_DEPTH, MAX_VALUES, parse_json

AWKWARD = st.text(st.sampled_from('"\\[]{},:au\u2028é😀\n'), max_size=12)
JSON = json_values(st.integers() | AWKWARD, AWKWARD, leaves=20)


def depth_of(value):
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth_of, inner), default=0)


def values_in(text):
    """Commas and opening brackets of `text` outside of its strings, one character after another."""
    found, inside, escaped = 0, False, False
    for letter in text:
        if inside:
            inside, escaped = escaped or letter != '"', letter == "\\" and not escaped
        else:
            inside, found = letter == '"', found + (letter in ",[{")
    return found


@given(st.dictionaries(AWKWARD, JSON, max_size=5), st.booleans(), st.integers(1, 9))
def test_values_and_depth_are_counted_outside_of_strings(body, ascii_only, at_once):
    raw = json.dumps(body, ensure_ascii=ascii_only)
    outside = strict_json._outside_strings(raw.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strict_json, "_AT_ONCE", at_once)
        text = b"".join(outside)
        assert text.count(b",") + text.count(b"[") + text.count(b"{") == values_in(raw)
        for most in (depth_of(body) - 1, depth_of(body)):
            patch.setattr(strict_json, "MAX_DEPTH", most)
            if most < depth_of(body):
                with pytest.raises(InvalidJSON, match="nested"):
                    parse_json(raw.encode())
            else:
                assert parse_json(raw.encode()) == body


# ---------------------------------------------------------------- what is JSON, and what is not


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b" \r\n\t", b"{", b"nothing", b"{'a': 1}", b'{"a": 1,}', b'{"a": 1} {"b": 2}', b'{"a": 1} // why'),
        *(b'{"a": 01}', b'{"a": .5}', b'{"a": +1}', b'{"a": "line\nbreak"}', b'{"a": "\\x41"}', b"\x00"),
        *(b'{"a": NaN}', b'{"a": Infinity}', b'{"a": [-Infinity]}', b'{"a": 1e999}', b'{"a": [{"b": -1e999}]}'),
        *(b'{"a": 1, "a": 2}', b'{"a": {"b": 1, "c": 2, "b": 1}}', b'{"a": "\\ud800"}', b'{"a": "\\uDC00\\uD83D"}'),
        *(b'{"a": ["\\uDbFf x"]}', b'{"\\ud800": 1}', b'{"a": ' + b"9" * 5000 + b"}"),
        *(b'{"a": -' + b"9" * 5000 + b"}", b'{"a": ' + b"[" * 200 + b"]" * 200 + b"}"),
        *(b'{"a": ' + b'{"a":' * 200 + b"1" + b"}" * 201, b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000),
        *(b'{"a":' * 100_000, b"\xff\xfe{\x00}\x00", '{"a": "é"}'.encode("latin-1"), '{"a": 1}'.encode("utf-16")),
        *(b'{"a": "\xc0\xaf"}', b'{"a": "\xed\xa0\x80"}', b"\xef\xbb\xbf", b"\xef\xbb\xbf\xef\xbb\xbf{}"),
    ],
    ids=lambda raw: ascii(raw[:24]),
)
def test_what_is_not_json_is_invalid_json(raw):
    error = raised(InvalidJSON, parse_json, raw)
    assert error.code == "invalid_json"
    assert len(error.message) < 300
    assert "sys." not in error.message, "advice for Python programmers, not for callers"


@pytest.mark.parametrize("raw", [b"null", b"true", b"5", b"1.5", b'"text"', b"[]", b'[{"model": "a/b"}]'])
def test_json_that_is_no_object_is_an_invalid_request(raw):
    error = raised(BadRequest, parse_json, raw)
    assert (error.code, "object" in error.message) == ("invalid_request", True)


@pytest.mark.parametrize(
    "raw, value",
    [
        (b"{}", {}),
        (b' \n{"a": 1}\r\n', {"a": 1}),
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        (b'{"a": "\\ud83d\\ude00"}', {"a": "😀"}),
        ('{"a": "\u2028\u0085é😀"}'.encode(), {"a": "\u2028\u0085é😀"}),
        (b'{"a": "\\\\ud800"}', {"a": "\\ud800"}),
        (b'{"a": {"a": 1}, "b": {"a": 1}}', {"a": {"a": 1}, "b": {"a": 1}}),
        (b'{"a": "\\u0000"}', {"a": "\0"}),
        (b'{"a": ' + b"9" * 400 + b"}", {"a": int("9" * 400)}),
        (b'{"a": [5.0, 5e0, 1E1, 5.5, 1]}', {"a": [5.0, 5.0, 10.0, 5.5, 1]}),
    ],
    ids=lambda value: ascii(value)[:24],
)
def test_json_is_read_as_it_is_written(raw, value):
    assert repr(parse_json(raw)) == repr(value), "a number with a fraction or an exponent is no integer"


def test_a_duplicate_name_is_named():
    body = b'{"temperature": 1, "model": "a/b", "temperature": 2}'
    assert "temperature" in raised(InvalidJSON, parse_json, body).message


@given(raw=st.binary(max_size=60) | st.builds(bytes, st.lists(st.sampled_from(b'{}[]",:\\ud8901e-.+tfn \xff'))))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_an_object_or_an_error_of_ours(raw):
    try:
        assert isinstance(parse_json(raw), dict)
    except ChatError as error:
        assert error.status == 400


HALVES = st.lists(st.sampled_from(["\\ud83d", "\\ude00", "\\uDBFF", "\\udC00", "\\\\", "\\u0041", "ud83d", '\\"', "d"]))


@given(HALVES)
def test_half_a_character_is_found_wherever_it_is(parts):
    raw = '{"a": "' + "".join(parts) + '"}'
    try:
        json.loads(raw)["a"].encode()
    except UnicodeEncodeError:
        with pytest.raises(InvalidJSON, match="surrogate"):
            parse_json(raw.encode())
    else:
        assert parse_json(raw.encode()) == json.loads(raw)


@pytest.mark.parametrize("opened, closed", [("[", "]"), ('{"a":', "}")])
def test_the_deepest_that_is_read(opened, closed):
    def nested(levels):
        return f'{{"a":{opened * levels}1{closed * levels}}}'.encode()

    assert parse_json(nested(MAX_DEPTH - 1))
    with pytest.raises(InvalidJSON, match="nested"):
        parse_json(nested(MAX_DEPTH))


@pytest.mark.parametrize("item", ["1", "[]", "{}", '"a,b"', '{"a":[1,2]}'])
def test_the_most_values_that_are_read(item):
    def of(count):
        return b'{"a":[' + b",".join([item.encode()] * count) + b"]}"

    each = values_in(item) + 1
    most = (MAX_VALUES - 1) // each
    assert len(parse_json(of(most))["a"]) == most
    error = raised(BadRequest, parse_json, of(most + 1))
    assert (error.code, list(error.details)) == ("invalid_request", ["body"])
    assert f"more than {MAX_VALUES} values" in error.message


def test_a_large_body_is_read_apart_and_told_in_the_callers_language(monkeypatch):
    counted = []
    monkeypatch.setattr(strict_json, "in_thread", lambda do: counted.append(1) or do())
    use("pt-BR")
    for size in (10, strict_json.LARGE):
        error = raised(InvalidJSON, parse_json, b'{"a":' + b"x" * size)
        assert "O corpo não é JSON: falta um valor (linha 1, coluna 6)" in error.message
    assert counted == [1]
