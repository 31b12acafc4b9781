"""What the attacks tell of themselves, as text: the command `boostershot attacks` and docs/attacks.md.

An attack's class is its description: the docstring's first line says what it is, its other paragraphs where it is from,
its `Args` what each key means; the class says whether it trains, which rows it wants and how the model is asked.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import BaseModel
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from boostershot.attacks import ATTACKS
from boostershot.attacks.attack import Attack
from boostershot.config import AttackSettings

_METHOD = "method"
PLAIN = "plain"  # the name of an asking with nothing around the question
_EXAMPLE = {"adapter": "continue", "lr": 2e-4, "steps": 20, "batch": 8, "eval_steps": [0, 20]}
_SECTION = re.compile(r"^(Args|Raises|Returns):$", re.MULTILINE)
_KEYS = re.compile(r"(\w+(?:, \w+)*): (.*)", re.DOTALL)


def title(name: str) -> str:
    """What the attack is, in a line."""
    return _paragraphs(name)[0]


def text(name: str) -> list[str]:
    """The paragraphs that say how it works and where it is from."""
    return _paragraphs(name)[1:]


def keys(name: str) -> list[dict[str, str]]:
    """One row a key of the attack's own: name, default, meaning."""
    meanings = _meanings(ATTACKS[name])
    return [
        {"name": field.name, "default": _default(field), "meaning": meanings.get(field.name, "")}
        for field in dataclasses.fields(ATTACKS[name])
        if field.init
    ]


def training_keys() -> list[dict[str, str]]:
    """One row a key of the training that every attack with optimiser steps has: name, default, meaning."""
    return [
        {
            "name": key,
            "default": "none" if field.is_required() else _written(field.get_default(call_default_factory=True)),
            "meaning": " ".join((field.description or "").split()),
        }
        for key, field in AttackSettings.model_fields.items()
        if key != _METHOD
    ]


def rows(name: str) -> str:
    """Which rows it wants at its defaults, in words."""
    attack: Attack = ATTACKS[name]()
    kinds = [(attack.n_harmful, "harmful"), (attack.n_benign, "benign")]
    return ", ".join(f"{n} {kind}" for n, kind in kinds if n) or "none"


def asked(name: str) -> str:
    """How the model is asked afterwards, in words: the first gives the headline score, each other a row apart."""
    attack: Attack = ATTACKS[name]()
    names = list(attack.askings)
    if names == [PLAIN]:
        return "plainly"
    return "; apart: ".join([names[0], *([" and ".join(names[1:])] if names[1:] else [])])


def example(name: str) -> str:
    """A recipe's section with this attack."""
    trained = _EXAMPLE if ATTACKS[name].trains else {}
    mapping: Mapping[str, Any] = {_METHOD: name, **trained}
    return yaml.safe_dump(
        {"attacks": {name: dict(mapping)}}, sort_keys=False, width=100, default_flow_style=None
    ).rstrip()


def page() -> str:
    """Every attack in Markdown: the list, then each in full, then the keys of the training."""
    lines = ["| attack | trains | rows at its defaults | asked | what |", "|---|---|---|---|---|"]
    for name, kind in ATTACKS.items():
        trains = "yes" if kind.trains else "no"
        lines.append(_row(f"[{name}](#{name})", trains, rows(name), asked(name), title(name)))
    for name in ATTACKS:
        lines += ["", f"### {name}", "", title(name)]
        for paragraph in text(name):
            lines += ["", paragraph]
        if own := keys(name):
            lines += ["", "| key | default | meaning |", "|---|---|---|"]
            lines += [_row(f"`{key['name']}`", _code(key["default"]), key["meaning"]) for key in own]
        lines += ["", "```yaml", example(name), "```"]
    lines += ["", "## Keys of the training", "", "Of every attack that trains, beside its own.", ""]
    lines += ["| key | default | meaning |", "|---|---|---|"]
    lines += [_row(f"`{key['name']}`", _code(key["default"]), key["meaning"]) for key in training_keys()]
    return "\n".join([*lines, ""])


def overview() -> RenderableType:
    """The list for the terminal, readable at 60 columns."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("attack", no_wrap=True)
    table.add_column("trains", no_wrap=True)
    table.add_column("what")
    for name, kind in ATTACKS.items():
        table.add_row(name, "yes" if kind.trains else "no", title(name))
    return Group(table, Text("\n`boostershot attacks NAME` tells more of one."))


def details(name: str) -> RenderableType:
    """An attack in full, for the terminal."""
    parts: list[RenderableType] = [Text(f"{name}: {title(name)}", style="bold"), Text()]
    for paragraph in text(name):
        parts += [Text(paragraph), Text()]
    facts = [("Trains", "yes" if ATTACKS[name].trains else "no: its rows stand at attack step 0")]
    facts += [("Rows at its defaults", rows(name)), ("Asked", asked(name))]
    parts += [Text.assemble((f"{heading}: ", "bold"), said) for heading, said in facts]
    parts.append(Text())
    for key in keys(name):
        parts += [Text.assemble((key["name"], "bold"), f" (default {key['default']}): {key['meaning']}"), Text()]
    if ATTACKS[name].trains:
        names = ", ".join(key["name"] for key in training_keys())
        parts += [Text.assemble(("Keys of the training: ", "bold"), f"{names} (docs/attacks.md)"), Text()]
    return Group(*parts, Text(example(name)))


def _paragraphs(name: str) -> list[str]:
    """The docstring before its sections, a string a paragraph."""
    told = _SECTION.split(inspect.getdoc(ATTACKS[name]) or "", maxsplit=1)[0]
    return [" ".join(part.split()) for part in told.strip().split("\n\n")]


def _meanings(kind: type) -> dict[str, str]:
    """Field name -> what the docstring's `Args` say of it, or those of a class before it; `a, b: text` is of both."""
    if kind is object:
        return {}
    _, *parts = _SECTION.split(inspect.cleandoc(kind.__doc__ or ""))
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    entries = re.split(r"\n {4}(?! )", sections.get("Args", ""))
    found = [match for entry in entries if (match := _KEYS.fullmatch(" ".join(entry.split())))]
    return _meanings(kind.__base__ or object) | {name: match[2] for match in found for name in match[1].split(", ")}


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return "none"
    return _written(value)


def _written(value: Any) -> str:
    """A default as a recipe writes it."""
    return json.dumps(value.model_dump() if isinstance(value, BaseModel) else value, ensure_ascii=False)


def _code(value: str) -> str:
    return value if value == "none" else f"`{value}`"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
