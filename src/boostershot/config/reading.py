"""Reading a recipe's YAML strictly, and setting single values in it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from boostershot import recipes
from boostershot.errors import InputError, choices

Overrides = Sequence[str] | Mapping[str, Any]
_LABELLED = ("defenses", "attacks")  # mappings whose keys are the author's own labels


_TOO_MANY = "stands for more than 20,000 values; expected a recipe (do aliases multiply in it?)"
_MOST = 20_000  # values in a recipe; the largest that is shipped has some hundreds


class _StrictLoader(yaml.SafeLoader):
    """Plain data only, and a key given twice is an error instead of the last one's victory."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge keys (`<<`) multiply as aliases do, before there is a value to count."""
        super().flatten_mapping(node)
        if len(node.value) > _MOST:
            raise yaml.MarkedYAMLError(problem=_TOO_MANY, problem_mark=node.start_mark)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {key.value!r} is there twice; expected it once",
                        problem_mark=key.start_mark,
                    )
                seen.add((key.tag, key.value))
        return node


def read_recipe(name_or_path: str | Path) -> dict[str, Any]:
    """The mapping in a shipped recipe or a YAML file, not yet checked.

    `extends: NAME or FILE` starts from another recipe: sections are merged key by key, and only `defenses` and
    `attacks`, whose labels are the author's own, are replaced as a whole. A file is sought beside the one that names
    it.

    Raises:
        InputError: no such recipe or file, not YAML, a key twice, not a mapping, or one that extends itself.
    """
    return _extended(str(name_or_path), [])


def _extended(where: str, below: Sequence[str]) -> dict[str, Any]:
    found = _mapping(where)
    if "extends" not in found:
        return found
    parent = found.pop("extends")
    if not isinstance(parent, str) or not parent:
        raise InputError(f"{where}: extends: expected the name of a recipe or a YAML file")
    if parent not in recipes.names():
        parent = str(Path(where).parent / parent)
    if parent in (where, *below):
        raise InputError(f"{where}: extends: {parent} extends it; expected another recipe")
    return _merged(_extended(parent, [where, *below]), found)


def _merged(base: dict[str, Any], over: Mapping[str, Any], top: bool = True) -> dict[str, Any]:
    for key, value in over.items():
        known = base.get(key)
        if isinstance(known, dict) and isinstance(value, dict) and not (top and key in _LABELLED):
            base[key] = _merged(known, value, top=False)
        else:
            base[key] = value
    return base


def _mapping(where: str) -> dict[str, Any]:
    found = parse_yaml(_text(where), where)
    if found is None:
        raise InputError(f"{where}: is empty; expected a mapping of keys")
    if not isinstance(found, dict):
        raise InputError(f"{where}: holds a {type(found).__name__}; expected a mapping of keys")
    return found


def parse_yaml(text: str, where: str) -> Any:
    """The value that the text holds, without shared parts: changing one place never changes another.

    Raises:
        InputError: names the line.
    """
    try:
        return _unshared(yaml.load(text, _StrictLoader), itertools.count(1))
    except _TooMany:
        raise InputError(f"{where}: {_TOO_MANY}") from None
    except RecursionError:
        raise InputError(f"{where}: is nested too deeply or within itself; expected a plain mapping") from None
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise InputError(f"{where}: {line}{error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:  # a control character; a date such as 2020-13-01
        raise InputError(f"{where}: is not YAML: {' '.join(str(error).split())}") from None


def apply_overrides(data: dict[str, Any], overrides: Overrides) -> None:
    """Set values in `data`, in place, by dotted keys: `["immunize.steps=3"]` or `{"immunize.steps": 3}`.

    Text after `=` is read as YAML. A missing section is made; a missing defence or attack is an error.

    Raises:
        InputError: names the override.
    """
    pairs = overrides.items() if isinstance(overrides, Mapping) else map(_pair, overrides)
    for key, value in pairs:
        _set(data, key, value)


def _text(where: str) -> str:
    if where in recipes.names():
        return recipes.text(where)
    path = Path(where)
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        if path.suffix in (".yaml", ".yml") or path.parent != Path():
            raise InputError(f"{where}: no such file; expected a recipe in YAML") from None
        raise InputError(f"{where}: no such recipe; {choices(where, recipes.names())}, or a YAML file") from None
    except UnicodeDecodeError:
        raise InputError(f"{where}: is not text in UTF-8; expected a recipe in YAML") from None
    except (OSError, ValueError) as error:  # a folder, no permission, a null byte in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{where!r}: cannot be read: {reason}; expected a recipe in YAML") from None


class _TooMany(Exception):
    """Aliases of aliases: a few lines that stand for more values than there is memory."""


def _unshared(value: Any, counter: Iterator[int]) -> Any:
    """YAML aliases make two places one object; this makes them two, counting as it goes."""
    if next(counter) > _MOST:
        raise _TooMany
    if isinstance(value, dict):
        return {key: _unshared(child, counter) for key, child in value.items()}
    if isinstance(value, list):
        return [_unshared(child, counter) for child in value]
    return value


def _pair(override: str) -> tuple[str, Any]:
    key, equals, text = override.partition("=")
    if not equals:
        raise InputError(f"--set {override}: has no value; expected key.path=value")
    return key, parse_yaml(text, f"--set {override}")


def _set(data: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = parts = key.split(".")
    if not all(part.strip() for part in parts):
        raise InputError(f"--set {key}: is no key; expected key.path=value")
    node = data
    for depth, part in enumerate(sections):
        child = node.get(part)
        path = ".".join(parts[: depth + 1])
        if child is None and depth == 1 and sections[0] in _LABELLED:
            raise InputError(f"--set {key}: there is no {path}; {choices(part, node)}")
        if child is None:
            child = node[part] = {}
        if not isinstance(child, dict):
            raise InputError(f"--set {key}: {path} is no mapping; set it as a whole: --set {path}=...")
        node = child
    node[last] = value
