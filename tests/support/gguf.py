"""GGUF files with another chat template: the metadata is read and written anew, the tensors stay as they are."""

import struct

KEY = b"tokenizer.chat_template"
STRING, ARRAY = 8, 9
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # of a value, by its type
ALIGNMENT = 32


def with_chat_template(content, template):
    """The bytes of the GGUF file `content` with `template` as its tokenizer.chat_template."""
    tensors, pairs = struct.unpack_from("<QQ", content, 8)
    at = 24
    for _ in range(pairs):
        key, at = _string(content, at)
        (kind,) = struct.unpack_from("<I", content, at)
        begin, at = at + 4, _after(content, at + 4, kind)
        if key == KEY:
            text = template.encode()
            end_of_head = _after_tensors(content, _after_pairs(content, pairs), tensors)
            head = content[:begin] + struct.pack("<Q", len(text)) + text + content[at:end_of_head]
            return _padded(head) + content[len(_padded(content[:end_of_head])) :]
    raise ValueError("this file has no chat template")


def _string(content, at):
    (length,) = struct.unpack_from("<Q", content, at)
    return content[at + 8 : at + 8 + length], at + 8 + length


def _after(content, at, kind):
    if kind == STRING:
        return _string(content, at)[1]
    if kind != ARRAY:
        return at + SIZES[kind]
    inner, count = struct.unpack_from("<IQ", content, at)
    at += 12
    if inner in SIZES:
        return at + count * SIZES[inner]
    for _ in range(count):
        at = _after(content, at, inner)
    return at


def _after_pairs(content, pairs):
    at = 24
    for _ in range(pairs):
        _, at = _string(content, at)
        (kind,) = struct.unpack_from("<I", content, at)
        at = _after(content, at + 4, kind)
    return at


def _after_tensors(content, at, tensors):
    for _ in range(tensors):
        _, at = _string(content, at)
        (dimensions,) = struct.unpack_from("<I", content, at)
        at += 4 + 8 * dimensions + 4 + 8
    return at


def _padded(head):
    return head + bytes(-len(head) % ALIGNMENT)
