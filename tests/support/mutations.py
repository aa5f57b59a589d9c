"""Mutations of JSON, of bytes and of HTTP's framing, drawn from a seeded generator: one number is one case for ever."""

import copy
import json
import math
import re
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

_RAW = re.compile(r'"@raw:([^"@]*)@"')


def raw(literal: str) -> str:
    """What `to_json` writes as it is, without quotation marks."""
    return f"@raw:{literal}@"


def _deep(levels: int) -> Any:
    value: Any = "deep"
    for level in range(levels):
        value = [value] if level % 2 else {"content": value}
    return value


ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63) - 1, 2**40, 10**400, 0.5, -0.0, 1e308, 5e-324),
    *(math.nan, math.inf, -math.inf, raw("1e999"), raw("-1e999"), raw("9" * 5000), raw("0." + "1" * 5000), raw("-")),
    *("", " ", "a" * 10_000, "\0", "\ud800", "\udc00x", "\u2028\u2029\u0085", "😀" * 50, "é\u0301", "٣", "\ufeff"),
    *("<script>alert(1)</script>", "\r\nX-Injected: 1", "NaN", "-1", "1e5", "0x10", "9" * 400, "5000", "[DONE]"),
    *("data: x\n\n", '{"error": {"message": "x", "code": 500}}', "%00%ff/../..", "null", "true", "text", "user"),
    *("test/ok", "own/ok", "tgi/ok", "classic/any", "a/b:c", "image_url", "tool", "assistant", "function", "data:,x"),
    *([], {}, [[]], [None], [{}], {"": ""}, {"type": "text"}, {"type": "text", "text": 5}, {"role": "tool"}),
    *({"url": "http://127.0.0.1:1/"}, {"error": None}, {"error": {"code": "9" * 400}}, {"message": {"content": []}}),
    *([0] * 1000, ["a", 1, None, {}], {str(i): i for i in range(300)}, _deep(12), _deep(60), _deep(200)),
)


def to_json(tree: Any) -> bytes:
    """JSON, or nearly."""
    return _RAW.sub(r"\1", json.dumps(tree)).encode()


def mutated_tree(dice: Random, tree: Any, times: int) -> Any:
    """A copy of `tree` with so many places changed."""
    holder = [copy.deepcopy(tree)]
    for _ in range(times):
        places = _places(holder)
        dice.choice(_CHANGES)(dice, *dice.choice(places), places)
    return holder[0]


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Where there is a value: its container, and the key or index there."""
    found: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting and len(found) < 2000:
        at = waiting.pop()
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        found += [(at, key) for key in keys]
        waiting += [at[key] for key in keys if isinstance(at[key], dict | list)]
    return found


Places = Sequence[tuple[Any, Any]]


def _replace(dice: Random, at: Any, key: Any, places: Places) -> None:
    at[key] = copy.deepcopy(dice.choice(ODD))


def _delete(dice: Random, at: Any, key: Any, places: Places) -> None:
    if len(at) > 1:
        del at[key]


def _move(dice: Random, at: Any, key: Any, places: Places) -> None:
    other, there = dice.choice(places)
    at[key] = copy.deepcopy(other[there])


def _rename(dice: Random, at: Any, key: Any, places: Places) -> None:
    if isinstance(at, dict):
        names = [name for _, name in places if isinstance(name, str)] + [odd for odd in ODD if isinstance(odd, str)]
        at[dice.choice(names)] = at.pop(key)


def _wrap(dice: Random, at: Any, key: Any, places: Places) -> None:
    at[key] = dice.choice(([at[key]], {"content": at[key]}, {"text": at[key]}, [at[key], at[key]], {str(key): at[key]}))


def _repeat(dice: Random, at: Any, key: Any, places: Places) -> None:
    if isinstance(at[key], str):
        at[key] = at[key] * dice.choice((2, 3, 200))
    elif isinstance(at, list):
        at[key:key] = [copy.deepcopy(at[key]) for _ in range(dice.choice((1, 2, 150)))]


_CHANGES: Sequence[Callable[[Random, Any, Any, Places], None]] = (
    *(_replace, _replace, _replace, _delete, _move, _rename, _wrap, _repeat),
)

_TOKENS = (
    *(b"\0", b"\r\n", b"\n", b"\r", b"\xff", b"\xc3", b"\xef\xbb\xbf", b'"', b"\\", b"{", b"]", b",", b":"),
    b" " * 50,
    *(b"\\u0000", b"\\ud800", b"1e999", b"NaN", b"data:", b"\n\n", b"\r\n\r\n", b"HTTP/1.1 200 OK\r\n"),
    b"\x80\x00",
)


def mutated_bytes(dice: Random, data: bytes, times: int) -> bytes:
    """`data` with so many bytes flipped, pieces cut out, doubled or put in."""
    for _ in range(times):
        at = dice.randrange(len(data) + 1)
        end = min(len(data), at + dice.choice((1, 2, 8, 64, 500)))
        data = dice.choice(
            (
                data[:at] + bytes([dice.randrange(256)]) + data[at + 1 :],
                data[:at] + dice.choice(_TOKENS) + data[at:],
                data[:at] + data[end:],
                data[:end] + data[at:end] + data[end:],
                data[:at],
            )
        )
    return data


def chunked(dice: Random, body: bytes, oddly: bool) -> bytes:
    """`body` as chunks; `oddly`: as nobody should write them, one in three wrongly."""
    out, at = b"", 0
    while at < len(body):
        piece = body[at : at + dice.choice((1, 7, 100, 1000, 70_000))] if len(body) - at < 3000 else body[at:]
        at += len(piece)
        size = b"%x" % len(piece)
        if oddly:
            size = dice.choice((size, size.upper(), b"0" * 8 + size, size + b";a=b", size + b' ; q="x\\"y"', *_SIZES))
        out += size + b"\r\n" + piece + (dice.choice((b"\r\n", b"\r\n", b"\n", b"", b"x\r\n")) if oddly else b"\r\n")
    end: Sequence[bytes] = (b"0\r\n\r\n",)
    if oddly:
        end = (
            *end,
            b"0\r\nX: y\r\n\r\n",
            b"00\r\n\r\n",
            b"0\n\n",
            b"",
            b"0\r\n",
            b"0\r\n" + b"A: b\r\n" * 300 + b"\r\n",
        )
    return out + dice.choice(end)


_SIZES = (
    *(b"-1", b"0x5", b"", b" 5", b"g", b"ffffffffffffffff", b"1" * 2000, b"5\0", b"5;" + b"e" * 70_000, b"1_0"),
    b"+5",
)


def pieces(dice: Random, data: bytes) -> list[bytes]:
    """`data` as it is written: at once, or in a few pieces."""
    cuts = sorted(dice.randrange(len(data) + 1) for _ in range(dice.choice((0, 0, 0, 1, 2, 5))))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]
