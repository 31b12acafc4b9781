"""The kinds of values in a recipe, checked without leniency: `True` is no number and `3.0` no count."""

from __future__ import annotations

import json
import math
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue

from boostershot.errors import shown

_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
MAX_SEED = 2**32 - 1  # numpy's limit


def number(value: Any) -> float:
    """A finite float; takes whole numbers, and text such as `5e-4`, which YAML 1.1 does not read as a number.

    Raises:
        ValueError: anything else, bool included.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number or (isinstance(value, str) and _DECIMAL.fullmatch(value)):
        try:
            found = float(value)
        except OverflowError:
            found = math.inf
        if math.isfinite(found):
            return found
        raise ValueError(f"is {shown(value)}; expected a finite number")
    raise ValueError(f"is {shown(value)}; expected a number")


def whole(value: Any) -> int:
    """The value, if it is an int; ValueError for anything else, `True` and `3.0` included."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"is {shown(value)}; expected a whole number")
    return value


def _matching(allowed: str, extra: str) -> AfterValidator:
    """Text made of letters, digits and `extra` that starts with a letter or digit."""

    def check(value: str) -> str:
        if value[0].isalnum() and all(c.isalnum() or c in extra for c in value):
            return value
        raise ValueError(f"is {shown(value)}; expected {allowed}")

    return AfterValidator(check)


def distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values, if no two are equal; else a ValueError."""
    if len(set(values)) < len(values):
        raise ValueError(f"is {shown(values)}; expected each entry once")
    return values


def _targets(value: Any) -> Any:
    named = isinstance(value, list | tuple) and value and all(isinstance(name, str) and name for name in value)
    if value == "all-linear" or named:
        return value
    raise ValueError(f"is {shown(value)}; expected all-linear or a list of module names")


def _plain(value: Any) -> Any:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        raise ValueError("holds nan or inf; expected finite numbers") from None
    return value


Text = Annotated[str, Field(strict=True, min_length=1)]
Name = Annotated[Text, _matching("letters, digits, dots, - and _", "._-")]
Label = Annotated[Text, _matching("letters, digits, spaces and - _ / + : (no dots)", " -_/+:")]
Whole = Annotated[int, BeforeValidator(whole)]
Count = Annotated[Whole, Field(ge=1)]
Seed = Annotated[Whole, Field(ge=0, le=MAX_SEED)]
Number = Annotated[float, BeforeValidator(number)]
Positive = Annotated[Number, Field(gt=0)]
Share = Annotated[Number, Field(ge=0, le=1)]
Percent = Annotated[Number, Field(ge=0, le=100)]
ModuleNames = Annotated[str | tuple[str, ...], BeforeValidator(_targets)]
Options = Annotated[dict[str, JsonValue], AfterValidator(_plain)]
