"""Tools and the choice among them: flat here, nested upstream. What only OpenAI's servers can run is left out."""

from collections.abc import Sequence
from typing import Any

from marshmallow import ValidationError

from ...chat import Json
from ...languages import N_, _
from ..dialect import NAME, object_of, or_null
from ..fields import Flag, Object, TextOrObject, ill_typed, not_named
from ..loading import Strict, Text, faults

WORDS = ("none", "auto", "required")


_SETTINGS = {"description": or_null("string"), "parameters": or_null("object"), "strict": or_null("boolean")}
_FUNCTION = object_of({"type": {"const": "function"}, "name": NAME}, **_SETTINGS)
_OTHER_TOOL = object_of({"type": {"type": "string", "not": {"const": "function"}}})


class Tools(Strict):
    """Functions, and beside them whatever other tools a client brings."""

    said, kinds = N_("an array of objects"), (list,)
    keywords = {  # what only OpenAI's servers run is taken beside a function
        "items": {"anyOf": [_FUNCTION, _OTHER_TOOL]},
        "anyOf": [{"type": "null"}, {"type": "array", "maxItems": 0}, {"type": "array", "contains": _FUNCTION}],
    }

    def _checked(self, value: list[Json]) -> list[Json]:
        alone = not any(map(is_function, value))
        if errors := faults(value, lambda tool: _tool_fault(tool, alone)):
            raise ValidationError(errors)
        return value


def is_function(tool: Any) -> bool:
    """Whether a tool is one that the caller runs."""
    return isinstance(tool, dict) and tool.get("type") == "function"


def _tool_fault(tool: Any, alone: bool) -> Any:
    if not isinstance(tool, dict):
        return [_("must be an object")]
    kind = tool.get("type")
    if not isinstance(kind, str):
        return {"type": [_("must be a string")]}
    if kind == "function":
        return _function_fault(tool)
    said = _("'{kind}' runs only on OpenAI's servers: remove it, or send a function of your own", kind=kind[:64])
    return {"type": [said]} if alone else {}


def _function_fault(tool: Json) -> Json:
    kinds = {"description": Text, "parameters": Object, "strict": Flag}
    return not_named(tool, "name") | ill_typed(tool, kinds)


class ToolChoice(TextOrObject):
    """One of three words, a function, or some of the tools."""

    keywords = {
        "anyOf": [
            {"enum": [*WORDS, None]},
            object_of({"type": {"const": "function"}, "name": NAME}),
            object_of(
                {
                    "type": {"const": "allowed_tools"},
                    "mode": {"enum": ["auto", "required"]},
                    "tools": {"type": "array", "items": {"type": "object"}},
                }
            ),
        ]
    }

    def _checked(self, value: str | Json) -> str | Json:
        if isinstance(value, str):
            if value not in WORDS:
                raise ValidationError(_("must be one of {words}", words=", ".join(WORDS)))
        elif value.get("type") == "function":
            if errors := not_named(value, "name"):
                raise ValidationError(errors)
        elif value.get("type") == "allowed_tools":
            _check_allowed(value)
        else:
            raise ValidationError(
                _("must be none, auto, required, a function or allowed_tools: nothing else runs here")
            )
        return value


def _check_allowed(given: Json) -> None:
    errors: Json = {}
    if given.get("mode") not in ("auto", "required"):
        errors["mode"] = [_("must be one of {words}", words="auto, required")]
    tools = given.get("tools")
    if not isinstance(tools, list):
        errors["tools"] = [_("must be an array of objects")]
    elif found := faults(tools, lambda tool: not isinstance(tool, dict) and [_("must be an object")]):
        errors["tools"] = found
    if errors:
        raise ValidationError(errors)


def check_choice(choice: str | Json | None, tools: Sequence[Json] | None) -> None:
    """Raises ValidationError where none of the tools that `choice` allows is there."""
    if isinstance(choice, dict) and choice["type"] == "allowed_tools" and not _chosen(choice, tools or ()):
        raise ValidationError({"tool_choice": [_("must allow at least one of the functions in tools")]})


def _chosen(choice: str | Json | None, tools: Sequence[Json]) -> list[Json]:
    functions = [tool for tool in tools if is_function(tool)]
    if not isinstance(choice, dict) or choice["type"] != "allowed_tools":
        return functions
    names = [tool.get("name") for tool in choice["tools"] if is_function(tool)]
    allowed = {name for name in names if isinstance(name, str)}
    return [tool for tool in functions if tool["name"] in allowed]


def tool_fields(tools: Sequence[Json], choice: str | Json | None, parallel: bool | None) -> Json:
    """The fields that an upstream is sent; none where there is no function to call."""
    functions = [_nested(tool) for tool in _chosen(choice, tools)]
    if not functions:
        return {}
    fields = {"tools": functions, "tool_choice": _choice_sent(choice), "parallel_tool_calls": parallel}
    return {name: value for name, value in fields.items() if value is not None}


def _nested(tool: Json) -> Json:
    given = {key: tool[key] for key in ("name", "description", "parameters", "strict") if tool.get(key) is not None}
    return {"type": "function", "function": given}


def _choice_sent(choice: str | Json | None) -> str | Json | None:
    if not isinstance(choice, dict):
        return choice
    if choice["type"] == "allowed_tools":
        mode: str = choice["mode"]
        return mode
    return {"type": "function", "function": {"name": choice["name"]}}


def echoed_tools(tools: Sequence[Json]) -> list[Json]:
    """The functions as an answer repeats them, each of OpenAI's keys there."""
    keys = ("name", "description", "parameters", "strict")
    return [{"type": "function", **{key: tool.get(key) for key in keys}} for tool in tools if is_function(tool)]


def left_out(tools: Sequence[Json]) -> list[str]:
    """The paths of the tools that nobody here runs."""
    return [f"tools.{place}" for place, tool in enumerate(tools) if not is_function(tool)]
