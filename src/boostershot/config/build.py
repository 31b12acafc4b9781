"""From the mappings in a recipe to the defences, attacks and judges that they describe, and back."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from boostershot.attacks import ATTACKS, Attack
from boostershot.config.values import number, whole
from boostershot.errors import InputError, choices, nearest, shown

if TYPE_CHECKING:  # torch comes with it, and a misspelt key must not wait for torch
    from boostershot.defenses import Defense
    from boostershot.evaluation.judges import Settings as JudgeSettings
    from boostershot.evaluation.judges.preference import Preference


def build_defense(mapping: object, where: str) -> Defense:
    """The defence that `{method: name, hyper-parameters}` describes; `align: {method: ...}` nests.

    Raises:
        InputError: `where` and the key, what was wrong, and what was expected.
    """
    from boostershot.defenses import DEFENSES
    from boostershot.defenses.finishing import stages_of

    method, values = _method(mapping, DEFENSES, where)
    defense = _from_mapping(DEFENSES[method], values, where, method, ["method"])
    try:
        stages_of(defense)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None
    return defense


def build_attack(mapping: object, where: str) -> Attack:
    """The attack that `{method: name, keys of its own}` describes; not those of its training.

    Raises:
        InputError: `where` and the key, what was wrong, and what was expected.
    """
    method, values = _method(mapping, ATTACKS, where)
    return _from_mapping(ATTACKS[method], values, where, method, ["method"])


def _method(mapping: object, known: Mapping[str, Any], where: str) -> tuple[str, Mapping[Any, Any]]:
    """The name of the method that a mapping describes, and the mapping."""
    if not isinstance(mapping, Mapping):
        raise InputError(f"{where}: is {shown(mapping)}; expected {{method: name, ...}}")
    if "method" not in mapping:
        for key in mapping:
            if nearest(key, ["method"]):
                raise InputError(f'{where}.{key}: unknown key; expected method (did you mean "method"?)')
        raise InputError(f"{where}.method: is missing; expected one of {', '.join(known)}")
    method = mapping["method"]
    if not isinstance(method, str) or method not in known:
        raise InputError(f"{where}.method: is {shown(method)}; {choices(method, known)}")
    return method, mapping


def _from_mapping(kind: Any, mapping: Mapping[Any, Any], where: str, name: str, beside: Sequence[str] = ()) -> Any:
    """The dataclass `kind` with its fields from a mapping, which may have the keys `beside` too."""
    types_ = get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    for key in mapping:
        if key not in (*beside, *fields):
            raise InputError(f"{where}.{key}: unknown hyper-parameter of {name}; {choices(key, [*beside, *fields])}")
    values = {key: _hyper_parameter(mapping[key], types_[key], f"{where}.{key}") for key in fields if key in mapping}
    for key, field in fields.items():
        if key not in values and field.default is field.default_factory is dataclasses.MISSING:
            raise InputError(f"{where}.{key}: is missing; {name} has no default for it")
    try:
        return kind(**values)
    except ValueError as error:
        key, _, said = str(error).removeprefix(f"{name}: ").partition(" ")  # "booster: lam is -1; expected ..."
        raise InputError(f"{where}.{key}: {said}" if key in fields else f"{where}: {error}") from None


def build_judge(given: object, where: str) -> tuple[str, JudgeSettings]:
    """The label and the settings of the judge that `NAME` or `{name: NAME, settings, label: own name}` describes.

    Raises:
        InputError: `where` and the key, what was wrong, and what was expected.
    """
    from boostershot.evaluation.judges import JUDGES

    mapping = {"name": given} if isinstance(given, str) else given
    if not isinstance(mapping, Mapping):
        raise InputError(f"{where}: is {shown(given)}; expected a name or {{name: ..., ...}}")
    if "name" not in mapping:
        raise InputError(f"{where}.name: is missing; expected one of {', '.join(JUDGES)}")
    name = mapping["name"]
    if not isinstance(name, str) or name not in JUDGES:
        place = where if isinstance(given, str) else f"{where}.name"
        raise InputError(f"{place}: is {shown(name)}; {choices(name, JUDGES)}")
    label = mapping.get("label", name)
    if not isinstance(label, str) or not label.strip():
        raise InputError(f"{where}.label: is {shown(label)}; expected text")
    return label, _from_mapping(JUDGES[name], mapping, where, name, ["name", "label"])


def describe_judges(given: Sequence[object]) -> Iterator[dict[str, Any]]:
    """The mappings that `build_judge` makes the same judges of, with every setting.

    Raises:
        InputError: a judge is wrong, or two have the same label.
    """
    labels: set[str] = set()
    for position, one in enumerate(given):
        where = f"evaluate.judges[{position}]"
        label, settings = build_judge(one, where)
        if label in labels:
            raise InputError(f"{where}.label: {label!r} is there twice; expected a label of its own (label: ...)")
        labels.add(label)
        name = one if isinstance(one, str) else one["name"]  # pyright: ignore - a mapping, as build_judge saw
        yield {"name": name, "label": label, **dataclasses.asdict(settings)}


def build_preference(given: object, where: str) -> Preference:
    """The endpoint that compares answers, which `{base_url: ..., model: ..., settings}` describes.

    Raises:
        InputError: `where` and the key, what was wrong, and what was expected.
    """
    from boostershot.evaluation.judges.preference import Preference

    if not isinstance(given, Mapping):
        raise InputError(f"{where}: is {shown(given)}; expected {{base_url: ..., model: ..., ...}}")
    return _from_mapping(Preference, given, where, "a preference")


def describe_preference(given: object) -> dict[str, Any] | None:
    """The mapping that `build_preference` makes the same of, with every setting; null is none.

    Raises:
        InputError: as `build_preference`.
    """
    return None if given is None else dataclasses.asdict(build_preference(given, "evaluate.preference"))


def describe_defense(defense: Defense) -> dict[str, Any]:
    """The mapping that `build_defense` makes the same defence of, with every hyper-parameter."""
    from boostershot.defenses import DEFENSES

    names = {kind: name for name, kind in DEFENSES.items()}
    return {"method": names[type(defense)], **_fields(defense)}


def describe_attack(attack: Attack) -> dict[str, Any]:
    """The mapping that `build_attack` makes the same attack of, with every key of its own."""
    return {"method": attack.name, **_fields(attack)}


def _fields(one: Any) -> dict[str, Any]:
    return {field.name: _described(getattr(one, field.name)) for field in dataclasses.fields(one) if field.init}


def _described(value: Any) -> Any:
    """A hyper-parameter as JSON data."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {key: _described(one) for key, one in value.items()}
    if isinstance(value, tuple):
        return [_described(one) for one in value]
    from boostershot.defenses import Defense

    if isinstance(value, Defense):
        return describe_defense(value)
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def _hyper_parameter(value: Any, kind: Any, where: str) -> Any:
    """The value as a dataclass field of type `kind` takes it."""
    if get_origin(kind) in (Union, types.UnionType):
        if value is None and types.NoneType in get_args(kind):
            return None
        (kind,) = (one for one in get_args(kind) if one is not types.NoneType)
    if kind in (float, int, str) or get_origin(kind) is Literal:
        return _plain_value(value, kind, where)
    if kind is bool:
        if not isinstance(value, bool):
            raise InputError(f"{where}: is {shown(value)}; expected true or false")
        return value
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise InputError(f"{where}: is {shown(value)}; expected a mapping")
        return _from_mapping(kind, value, where, where.rpartition(".")[2])
    if get_origin(kind) is Mapping:
        if not isinstance(value, Mapping):
            raise InputError(f"{where}: is {shown(value)}; expected a mapping")
        return {str(key): _hyper_parameter(one, get_args(kind)[1], f"{where}.{key}") for key, one in value.items()}
    if get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{where}: is {shown(value)}; expected a list")
        return tuple(_hyper_parameter(one, get_args(kind)[0], f"{where}[{i}]") for i, one in enumerate(value))
    from boostershot.defenses import Defense

    if kind is Defense:
        return build_defense(value, where)
    if not isinstance(value, kind):
        raise InputError(f"{where}: is {shown(value)}; expected {kind.__name__}")
    return value


def _plain_value(value: Any, kind: Any, where: str) -> Any:
    """A number, a text, or one of a few; without torch."""
    try:
        if kind is float:
            return number(value)
        if kind is int:
            return whole(value)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None
    if get_origin(kind) is Literal:
        if value in get_args(kind):
            return value
        raise InputError(f"{where}: is {shown(value)}; {choices(value, map(str, get_args(kind)))}")
    if not isinstance(value, str):
        raise InputError(f"{where}: is {shown(value)}; expected text")
    return value
