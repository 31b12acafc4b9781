"""What a search may choose: named hyper-parameters with their ranges, read strictly."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from boostershot.attacks.spaces import SPACES
from boostershot.config.values import number, whole
from boostershot.errors import InputError, choices, shown

Values = Mapping[str, Any]  # dotted key -> value

_RANGE, _LIST, _MULTIPLE = ("low", "high"), ("values",), ("times", "of")
_OPTIONAL = ("log", "when")


@dataclass(frozen=True)
class Dimension:
    """One hyper-parameter: a list of `choices`, a range, or a multiple of another one.

    Args:
        key: dotted, such as lora.rank.
        choices: any JSON values.
        low, high: both ends belong to the range; whole numbers only, if both are whole.
        log: whether the range is even in its logarithm.
        times, of: the value is so many times that of another key, and nothing is searched.
        when: other key -> values; the hyper-parameter is there only with one of them.
    """

    key: str
    choices: tuple[Any, ...] | None = None
    low: float | None = None
    high: float | None = None
    log: bool = False
    times: float | None = None
    of: str | None = None
    when: Mapping[str, tuple[Any, ...]] | None = None

    @property
    def whole(self) -> bool:
        """Are its values whole numbers?"""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def applies(self, values: Values) -> bool:
        """Is the hyper-parameter there, beside these values?"""
        return all(key in values and values[key] in allowed for key, allowed in (self.when or {}).items())

    def holds(self, value: Any) -> bool:
        """Can the dimension take this value?"""
        if self.choices is not None:
            return value in self.choices
        if self.low is None or self.high is None:
            return True
        plain = isinstance(value, int if self.whole else int | float) and not isinstance(value, bool)
        return plain and self.low <= value <= self.high

    def extremes(self) -> tuple[Any, ...]:
        """The values that stand for all: every choice, both ends of a range; none for a multiple."""
        return self.choices if self.choices is not None else () if self.low is None else (self.low, self.high)

    def at_most(self, limit: int) -> Dimension:
        """The same without what is above the limit; ValueError where nothing is left, or it is no number at all."""
        if self.of is not None:
            raise ValueError("is a multiple; expected values of its own, which can be held to the attacker's budget")
        wrong = [value for value in self.extremes() if isinstance(value, bool) or not isinstance(value, int)]
        if wrong:
            raise ValueError(f"has {shown(wrong[0])}; expected whole numbers")
        if self.choices is not None:
            left = tuple(value for value in self.choices if value <= limit)
            if not left:
                raise ValueError(f"has nothing up to {limit}, the attacker's budget; expected smaller values")
            return replace(self, choices=left)
        if self.low is None or self.high is None:
            return self
        return replace(self, low=min(self.low, limit), high=min(self.high, limit))


@dataclass(frozen=True)
class Space:
    """The hyper-parameters that a search chooses together; a `when` or `of` names one that stands before it."""

    dimensions: tuple[Dimension, ...]

    def __getitem__(self, key: str) -> Dimension:
        return next(one for one in self.dimensions if one.key == key)

    def __contains__(self, key: str) -> bool:
        return any(one.key == key for one in self.dimensions)

    def limited(self, limits: Mapping[str, int], where: str) -> Space:
        """The same within the attacker's budget, such as {"steps": 200}.

        Raises:
            InputError: a hyper-parameter has no value within it.
        """
        found = []
        for one in self.dimensions:
            try:
                found.append(one.at_most(limits[one.key]) if one.key in limits else one)
            except ValueError as error:
                raise InputError(f"{where}.{one.key}: {error}") from None
        return Space(tuple(found))

    def derived(self, values: Values) -> dict[str, Any]:
        """The values with the multiples of them."""
        found = dict(values)
        for one in self.dimensions:
            if one.of is not None and one.times is not None and one.of in found:
                multiple = one.times * found[one.of]
                found[one.key] = int(multiple) if float(multiple).is_integer() else multiple
        return found

    def values_in(self, known: Values) -> dict[str, Any] | None:
        """Those of the known values that the space chooses; None where it cannot choose them all."""
        found: dict[str, Any] = {}
        for one in self.dimensions:
            if one.of is not None or not one.applies(found):
                continue
            if one.key not in known or not one.holds(known[one.key]):
                return None
            found[one.key] = known[one.key]
        return found

    def samples(self) -> Iterator[dict[str, Any]]:
        """Values that between them have every choice and both ends of every range, to check a space by."""
        for one in self.dimensions:
            for value in one.extremes():
                values = {key: allowed[0] for key, allowed in (one.when or {}).items()} | {one.key: value}
                for other in self.dimensions:
                    if other.key not in values and other.of is None and other.applies(values):
                        values[other.key] = other.extremes()[0]
                yield self.derived(values)

    def to_dict(self) -> dict[str, Any]:
        """JSON data of which `read_space` makes the same space."""
        return {one.key: _described(one) for one in self.dimensions}


def _described(one: Dimension) -> Any:
    if one.choices is not None:
        body: dict[str, Any] = {"values": list(one.choices)}
    elif one.of is not None:
        body = {"times": one.times, "of": one.of}
    else:
        body = {"low": one.low, "high": one.high, "log": one.log}
    return body | ({"when": {key: list(values) for key, values in one.when.items()}} if one.when else {})


def read_space(given: object, where: str) -> Space:
    """The space that a recipe describes: the name of a shipped one, or {key: list or {low, high, log}}.

    Raises:
        InputError: `where` and the key, what was wrong, and what was expected.
    """
    if isinstance(given, str):
        if given not in SPACES:
            raise InputError(f"{where}: is {shown(given)}; {choices(given, SPACES)}, or {{key: values}}")
        given = SPACES[given]
    if not isinstance(given, Mapping) or not given:
        raise InputError(f"{where}: is {shown(given)}; expected {{key: [values] or {{low: ..., high: ...}}}}")
    found: list[Dimension] = []
    for key, described in given.items():
        one = _dimension(str(key), described, f"{where}.{key}")
        known = {earlier.key for earlier in found}
        for other in (*(one.when or {}), *([one.of] if one.of else [])):
            if other not in known:
                raise InputError(f"{where}.{key}: depends on {other!r}; expected a key that stands before it")
        for other in known:
            if f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}."):
                raise InputError(f"{where}.{key}: is given beside {other!r}; expected one of the two")
        found.append(one)
    if all(one.of is not None for one in found):
        raise InputError(f"{where}: has multiples only; expected a key with values of its own")
    return Space(tuple(found))


def _dimension(key: str, described: object, where: str) -> Dimension:
    if isinstance(described, Sequence) and not isinstance(described, str):
        described = {"values": described}
    if not isinstance(described, Mapping):
        raise InputError(f"{where}: is {shown(described)}; expected a list of values, or {{low: ..., high: ...}}")
    kinds = [kind for kind in (_RANGE, _LIST, _MULTIPLE) if set(kind) & described.keys()]
    for name in described:
        if name not in (*_RANGE, *_LIST, *_MULTIPLE, *_OPTIONAL):
            raise InputError(f"{where}.{name}: unknown key; {choices(name, (*_LIST, *_RANGE, *_MULTIPLE, *_OPTIONAL))}")
    if len(kinds) != 1 or not described.keys() >= set(kinds[0]) or ("log" in described and kinds[0] is not _RANGE):
        raise InputError(f"{where}: is {shown(described)}; expected values, low and high (log), or times and of")
    when = _conditions(described.get("when"), f"{where}.when")
    if kinds[0] is _LIST:
        return Dimension(key, choices=_distinct(described["values"], f"{where}.values"), when=when)
    if kinds[0] is _MULTIPLE:
        return Dimension(key, times=_number(described["times"], f"{where}.times"), of=str(described["of"]), when=when)
    low, high = (_number(described[end], f"{where}.{end}") for end in _RANGE)
    log = described.get("log", False)
    if not isinstance(log, bool):
        raise InputError(f"{where}.log: is {shown(log)}; expected true or false")
    if low >= high:
        raise InputError(f"{where}.high: is {shown(high)}; expected more than low, {low:g}")
    if log and low <= 0:
        raise InputError(f"{where}.low: is {shown(low)}; expected more than 0 on a logarithmic range")
    return Dimension(key, low=low, high=high, log=log, when=when)


def _number(value: object, where: str) -> float:
    """A whole number stays one."""
    try:
        return whole(value) if isinstance(value, int) else number(value)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None


def _distinct(values: object, where: str) -> tuple[Any, ...]:
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise InputError(f"{where}: is {shown(values)}; expected a list of values")
    texts = [json.dumps(value, sort_keys=True) for value in values]
    if len(set(texts)) < len(texts):
        raise InputError(f"{where}: is {shown(values)}; expected each value once")
    # YAML 1.1 reads 5e-4 as text; a hyper-parameter that is a text never looks like a number.
    return tuple(_as_number(value) if isinstance(value, str) else value for value in values)


def _as_number(text: str) -> Any:
    try:
        return number(text)
    except ValueError:
        return text


def _conditions(given: object, where: str) -> Mapping[str, tuple[Any, ...]] | None:
    if given is None:
        return None
    if not isinstance(given, Mapping) or not given:
        raise InputError(f"{where}: is {shown(given)}; expected {{other key: [values]}}")
    return {str(key): _distinct(values, f"{where}.{key}") for key, values in given.items()}


def nested(values: Values) -> dict[str, Any]:
    """{"lora.rank": 8} as {"lora": {"rank": 8}}."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        *sections, last = key.split(".")
        node = found
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = value
    return found


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"lora": {"rank": 8}} as {"lora.rank": 8}."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
