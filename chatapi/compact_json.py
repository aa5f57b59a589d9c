"""JSON as compact as it gets, without what json.JSONEncoder.encode makes anew for every value.

It makes an encoder, a set to find circles with, which nothing that was read from JSON can have, and two lists: half of
what a small value costs, and a call writes five. Here there is nothing but C: `"".join(ascii_pieces(value))`.
"""

import json
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any


def _encoder(quote: Callable[[str], str]) -> Callable[[Any], Iterable[str]]:
    """Gives the JSON of a value, in pieces; `quote` that of a string."""
    make: Any = json.encoder.c_make_encoder  # type: ignore[attr-defined]
    pieces = make(None, json.JSONEncoder().default, quote, None, ":", ",", False, False, True)
    return partial(pieces, _current_indent_level=0)


ascii_pieces = _encoder(json.encoder.encode_basestring_ascii)
text_pieces = _encoder(json.encoder.encode_basestring)
