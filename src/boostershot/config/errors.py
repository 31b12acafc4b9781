"""What is wrong with a recipe, said in one line."""

from __future__ import annotations

import re

from pydantic import ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from boostershot.errors import InputError, choices, shown

_RANGES = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}
_KINDS = {
    "model_type": "a mapping of keys",
    "model_attributes_type": "a mapping of keys",
    "dict_type": "a mapping of keys",
    "tuple_type": "a list",
    "bool_type": "true or false",
    "string_type": "text",
    "string_too_short": "text",
}


def at_key(key: object, message: str) -> PydanticCustomError:
    """An error about one key of a mapping, for a validator that sees the whole mapping."""
    return PydanticCustomError("at_key", "{message}", {"key": str(key), "message": message})


def first_line(error: ValidationError) -> str:
    """`key.path: what was wrong; expected ...` for the first error."""
    details = error.errors(include_url=False)[0]
    cause = details.get("ctx", {}).get("error")
    if isinstance(cause, InputError):  # names its place itself
        return str(cause)
    path = [str(part) for part in details["loc"]]
    if details["type"] == "at_key":
        path.append(details.get("ctx", {})["key"])
    if path and path[-1] == "[key]":  # pydantic's mark for an error in a mapping's key
        path.pop()
    return f"{'.'.join(path)}: {_said(details)}" if path else _said(details)


def _said(details: ErrorDetails) -> str:
    kind, given, context = details["type"], shown(details["input"]), details.get("ctx", {})
    if kind == "at_key":
        return context["message"]
    if kind == "value_error":
        return str(context["error"])
    if kind == "missing":
        return "is missing; expected a value, it has no default"
    if kind in _RANGES:
        bound, words = _RANGES[kind]
        return f"is {given}; expected {words} {shown(context[bound]).removesuffix('.0')}"
    if kind == "literal_error":
        allowed = re.findall("'([^']*)'", context["expected"])
        return f"is {given}; {choices(details['input'], allowed)}"
    if kind == "too_short":
        return "is empty; expected at least one entry"
    if kind in _KINDS:
        return f"is {given}; expected {_KINDS[kind]}"
    return f"is {given}; {details['msg'][:1].lower()}{details['msg'][1:]}"
