"""Tool calls, whole and streamed, in the shape that OpenAI's SDKs read, whatever shape they came in. Pure.

SDKs index a list by `index` and join the strings they find there. So here calls are numbered from 0 in the order in
which they appear, ids and names are said once, and `arguments` is a string that is JSON once the call is complete.
"""

import json
import re
import uuid
from typing import Any

from ..chat import Json
from .values import count, read_json

_NAMES = ("name", "tool_name", "function_name")
_ARGUMENTS = ("arguments", "args", "parameters", "input")
_OURS = {"index", "id", "type", "function", "functionCall", *_NAMES, *_ARGUMENTS}
MAX_LISTS = 3  # of calls within lists of calls
MAX_CALLS = 1000  # of one choice of a stream: each piece is compared with those before it


class UnreadableCalls(ValueError):
    """What stands where tool calls belong is none."""


def listed(given: Any) -> list[Json]:
    """The calls in `given`: lists of them, a single call, a mapping of calls, or JSON text of these."""
    return [call for call in _listed(given, 0) if not _is_empty(call)]


def _listed(given: Any, depth: int) -> list[Json]:
    if isinstance(given, str):
        try:
            given = read_json(given.encode("utf-8", "replace"))
        except ValueError:
            raise UnreadableCalls from None
    if isinstance(given, dict):
        nested = list(given.values())
        of_calls = bool(nested) and not given.keys() & _OURS and all(isinstance(v, dict) for v in nested)
        given = nested if of_calls else [given]
    if not isinstance(given, list) or depth > MAX_LISTS:
        raise UnreadableCalls
    if all(isinstance(call, dict) for call in given):
        return given
    return [c for item in given if item is not None for c in _listed(item, depth + 1)]


def _is_empty(call: Json) -> bool:
    """Some providers send a call of empty strings where there is none."""
    if _id_in(call) or any(value for key, value in call.items() if key not in _OURS):
        return False
    function = _function_of(call)
    return not _name_in(function) and _arguments_in(function) in (None, "")


def whole_calls(given: Any, cut: bool) -> list[Json]:
    """The calls of a message; complete ones, unless it was `cut`. Raises UnreadableCalls."""
    seen: set[str] = set()
    return [_whole(call, seen, cut) for call in listed(given)]


def _whole(call: Json, seen: set[str], cut: bool) -> Json:
    function = _function_of(call)
    id = _id_in(call)
    if not id or id in seen:
        id = new_id()
    seen.add(id)
    if isinstance(call.get("custom"), dict):  # a custom tool's call has its own shape
        return {**call, "id": id}
    rest = {k: v for k, v in call.items() if k not in _OURS}
    # Other servers' words for a function ("tool_use", "tool_call") make SDKs drop the call; a custom tool is another.
    kind = "custom" if call.get("type") == "custom" else "function"
    return {"id": id, "type": kind, "function": _whole_function(function, cut), **rest}


def _whole_function(function: Json, cut: bool) -> Json:
    more = {k: v for k, v in function.items() if k not in _OURS}
    arguments = _arguments_in(function)
    return {"name": _name_in(function) or "", "arguments": _text(arguments) if cut else _whole_text(arguments), **more}


def whole_function_call(given: Any, cut: bool = False) -> Json | None:
    """The deprecated single call of a message, or None where it says nothing."""
    calls = listed(given)
    return _whole_function(_function_of(calls[0]), cut) if calls else None


def _function_of(call: Json) -> Json:
    function = call.get("function", call.get("functionCall"))
    if isinstance(function, dict):
        return function
    return {**call, "name": function} if isinstance(function, str) else call


def _name_in(function: Json) -> str | None:
    return next((v for key in _NAMES if isinstance(v := function.get(key), str) and v), None)


def _arguments_in(function: Json) -> Any:
    return next((v for key in _ARGUMENTS if (v := function.get(key)) is not None), None)


def _id_in(call: Json) -> str | None:
    given = call.get("id", call.get("tool_call_id", call.get("call_id")))
    if type(given) is int:
        return str(given)[:64]
    return given if isinstance(given, str) and given else None


def _text(arguments: Any) -> str:
    """A piece of arguments as it is joined: text stays, anything else becomes JSON."""
    if arguments is None:
        return ""
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))


_FENCED = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)


def _whole_text(arguments: Any) -> str:
    """All of a call's arguments, as JSON. Raises UnreadableCalls for what is none."""
    text = _text(arguments).strip()
    if text in ("", "null", "None"):
        return "{}"
    if fenced := _FENCED.fullmatch(text):
        text = fenced[1]
    try:
        value = read_json(text.encode("utf-8", "replace"))
    except ValueError:
        raise UnreadableCalls from None
    return _whole_text(value) if isinstance(value, str) and value.strip()[:1] in ("{", "[", '"') else text


def new_id() -> str:
    """An id for a call that came without one."""
    return f"call_{uuid.uuid4().hex[:24]}"


class _Call:
    """A call of a stream: what has been said of it."""

    __slots__ = ("begun", "custom", "given_id", "key", "name", "number", "pieces", "rest", "told")

    def __init__(self, number: int, key: int | None) -> None:
        self.number = number
        self.key = key  # the upstream's own index
        self.given_id: str | None = None
        self.name = ""
        self.pieces: list[str] = []  # of its arguments, none of them empty
        self.rest: Json = {}
        self.begun = False  # its id and name have gone out
        self.told = 0  # pieces that went out
        self.custom = False  # a custom tool's call

    @property
    def whole(self) -> bool:
        """Whether its arguments are a JSON object, so that another `{` begins another call."""
        if not self.pieces or not self.pieces[-1].rstrip().endswith("}"):
            return False
        try:
            return isinstance(read_json("".join(self.pieces).encode("utf-8", "replace")), dict)
        except ValueError:
            return False

    def whole_is(self, text: str) -> bool:
        """Whether `text` is all that was said of its arguments."""
        return "".join(self.pieces) == text


class CallPieces:
    """The calls of one choice of a stream."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._ids: set[str] = set()  # those that went out

    def __bool__(self) -> bool:
        return bool(self._calls)

    def feed(self, given: Any) -> list[Json]:
        """The pieces to send on for the `tool_calls` of a delta. Raises UnreadableCalls."""
        pieces = _listed(given, 0) if self._calls else listed(given)
        return [told for place, piece in enumerate(pieces) if (told := self._piece(piece, place, len(pieces)))]

    def end(self, cut: bool) -> list[Json]:
        """What is left to say once the choice has finished; of a `cut` one nothing is made up.

        Raises UnreadableCalls for arguments that are no JSON.
        """
        return [told for call in self._calls if (told := self._rest_of(call, cut))]

    def _rest_of(self, call: _Call, cut: bool) -> Json | None:
        if call.custom:
            return None
        text = "".join(call.pieces)
        if not cut:
            whole = _whole_text(text)
            if call.told == 0:  # nothing of it went out, so it may be put right
                call.pieces = [whole]
        return self._told(call, self._untold(call))

    @staticmethod
    def _untold(call: _Call) -> str:
        """What of its arguments may go out now."""
        pieces, call.told = call.pieces[call.told :], len(call.pieces)
        return "".join(pieces)

    def _piece(self, piece: Json, place: int, of: int) -> Json | None:
        function = _function_of(piece)
        id, name, given = _id_in(piece), _name_in(function), _arguments_in(function)
        call = self._call_for(piece, id, name, given, place, of)
        call.given_id = call.given_id or id
        if isinstance(piece.get("custom"), dict):  # a custom tool's call: its pieces are joined as they are
            call.begun = call.custom = True
            return {**piece, "index": call.number}
        more = "" if not name or name == call.name else name.removeprefix(call.name)  # some send it in pieces
        call.name += more
        text = "" if given == {} else _text(given)  # more of it may come; what stays empty becomes {} at the end
        if call.pieces and (not isinstance(given, str) or (name and text.startswith("{") and call.whole_is(text))):
            text = ""  # all of it again
        if text:
            call.pieces.append(text)
        call.rest |= {k: v for k, v in piece.items() if k not in _OURS and v is not None}
        # SDKs want the name in the first piece: it is waited for. What does not begin as an object is put right at the
        # end: JSON of JSON, a fence, null.
        if not (call.begun or call.name):
            return None
        says_object = call.told or "".join(call.pieces).lstrip()[:1] == "{"
        return self._told(call, self._untold(call) if says_object else "", more)

    def _told(self, call: _Call, text: str, name: str = "") -> Json | None:
        rest, call.rest = call.rest, {}
        if call.begun:
            if not (text or name or rest):
                return None
            return {"index": call.number, "function": {**({"name": name} if name else {}), "arguments": text}, **rest}
        call.begun = True
        id = call.given_id if call.given_id and call.given_id not in self._ids else new_id()
        self._ids.add(id)
        function = {"name": call.name, "arguments": text}
        return {"index": call.number, "id": id, "type": "function", "function": function, **rest}

    def _call_for(self, piece: Json, id: str | None, name: str | None, given: Any, place: int, of: int) -> _Call:
        """The call to which a piece belongs; a new one where it begins one."""
        key = count(piece.get("index"))
        known = self._known(id, key, name, given)
        if known is None and key is not None:
            known = next((c for c in reversed(self._calls) if c.key == key), None)
            another = known is None or self._begins_another(known, id, name, given, indexed=True)
        elif known is None:
            side_by_side = of > 1 and not name and not id and of <= len(self._calls)
            known = self._calls[place - of if side_by_side else -1] if self._calls else None
            another = known is None or self._begins_another(known, id, name, given, indexed=False)
        else:
            another = False
        if known is None or another:
            if len(self._calls) >= MAX_CALLS:
                raise UnreadableCalls
            self._calls.append(known := _Call(len(self._calls), key))
        return known

    def _known(self, id: str | None, key: int | None, name: str | None, given: Any) -> _Call | None:
        # Some servers give all calls one id: another index with a name is another call nevertheless.
        same = (c for c in reversed(self._calls) if id and c.given_id == id)
        found = next((c for c in same if not name or key is None or c.key is None or c.key == key), None)
        # Nor is it the same call whose arguments were whole, and now there are others.
        begins = name and found and _text(given).lstrip().startswith("{") and found.whole
        return None if begins and found and not (name == found.name and found.whole_is(_text(given))) else found

    def _begins_another(self, known: _Call, id: str | None, name: str | None, given: Any, indexed: bool) -> bool:
        if id and known.given_id:
            # A new id alone, or in the middle of the arguments, may be one that a server makes up for every piece.
            goes_on = indexed and name == known.name and known.pieces and not known.whole
            return bool(name) and not goes_on
        if not name or not known.name:
            return False
        if name == known.name or (indexed and not known.pieces):
            # The name again, or more of it; but after whole arguments further ones are another call's.
            return _text(given).lstrip().startswith("{") and known.whole
        return True
