"""JSON as compact as it gets, without what json.JSONEncoder.encode makes anew for every value.

It makes an encoder, a set to find circles with, which nothing that was read from JSON can have, and two lists: half of
what a small value costs, and a call writes five.
"""

import json
from collections.abc import Callable
from typing import Any


def encoder(quote: Callable[[str], str]) -> Callable[[Any], str]:
    """Gives the JSON of a value; `quote` that of a string (json.encoder's encode_basestring or …_ascii)."""
    make: Any = json.encoder.c_make_encoder  # type: ignore[attr-defined]
    pieces = make(None, json.JSONEncoder().default, quote, None, ":", ",", False, False, True)

    def encode(value: Any) -> str:
        return "".join(pieces(value, 0))

    return encode


to_ascii = encoder(json.encoder.encode_basestring_ascii)
to_text = encoder(json.encoder.encode_basestring)
