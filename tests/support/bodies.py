"""Bodies of 20 MB that cost more than they look."""

from collections.abc import Callable

SIZE = 20 * 1024 * 1024


MODEL = b"own/ok"  # on a server of its own: nobody knows how much it reads


def message(text: bytes, beside: bytes = b"") -> bytes:
    return b'{"model":"%b","messages":[{"role":"user","content":"%b"}]%b}' % (MODEL, text, beside)


def array(item: bytes, times: int) -> bytes:
    return b'{"model":"%b","tools":[%b1]}' % (MODEL, item * times)


VALID: dict[str, Callable[[], bytes]] = {
    "one string": lambda: message(b"x" * SIZE),
    "one string of escapes": lambda: message(b"\\n" * (SIZE // 2)),
    "one string of backslashes": lambda: message(b"\\\\" * (SIZE // 2)),
    "one string of quotation marks": lambda: message(b'\\"' * (SIZE // 2)),
    "one string of escaped pairs": lambda: message(b"\\ud83d\\ude00" * (SIZE // 12)),
    "one string with one wide character": lambda: message(b"x" * SIZE + "😀".encode()),
    "JSON in a string": lambda: message(b'{\\"a\\":[1,2,3],\\"b\\":{}},' * (SIZE // 26)),
    "a string beside 200 arrays": lambda: message(b"x" * SIZE, b',"a":[' + b"[]," * 200 + b"1]"),
    "a photo among 200 messages": lambda: message(b"hi").replace(
        b"[", b"[" + TURN * 200 + PHOTO % (b"iVBORw0KGgoA" * (SIZE // 12 - 1000)), 1
    ),
    "spaces": lambda: message(b"x").replace(b":", b":" + b" " * SIZE, 1),
    "a long fraction": lambda: message(b"hi", b',"a":1.' + b"1" * SIZE),
    "as many messages as are read": lambda: message(b"hi").replace(b"[", b"[" + TURN * 83_000, 1),
    "as many objects as are read": lambda: message(b"hi", b',"a":[' + b'{"a":{}},' * 83_000 + b"1]"),
    "as many names as are read": lambda: message(b"hi", b"".join(b',"%d":1' % number for number in range(249_000))),
}
TURN = b'{"role":"user","content":"hi"},'
PHOTO = b'{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,%b"}}]},'
FAULTY: dict[str, Callable[[], bytes]] = {
    "arrays": lambda: array(b"[],", SIZE // 3),
    "deep arrays": lambda: array(b"[" * 120 + b"]" * 120 + b",", SIZE // 241),
    "numbers": lambda: array(b"1,", SIZE // 2),
    "strings": lambda: array(b'"a",', SIZE // 4),
    "objects": lambda: array(b'{"a":1},', SIZE // 8),
    "one name again and again": lambda: b"{" + b'"a":1,' * 249_000 + b'"b":1}',
    "halves of characters": lambda: message(b"\\ud800" * (SIZE // 6)),
    "digits": lambda: b'{"a":' + b"1" * SIZE + b"}",
    "quotation marks": lambda: b'{"a":' + b'"' * SIZE,
    "backslashes": lambda: b'{"a":' + b"\\" * SIZE,
    "commas after a mistake": lambda: b'{"a":x' + b"," * SIZE,
}
