"""What the methods tell of themselves, as text: the command `boostershot methods` and the pages in docs/methods."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import yaml
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from boostershot.config import build_defense, describe_defense
from boostershot.defenses import DEFENSES, Defense
from boostershot.defenses.about import NOTATION
from boostershot.defenses.defense import Cost
from boostershot.defenses.finishing import heaviest_of, trainings_of

_ROWS = {
    "align": "safe answers",
    "harmful": "harmful answers",
    "paired": "harmful answers to the same prompts",
    "general": "benign text",
    "dev": "dev rows",
}


def typical(name: str) -> Defense:
    """The method at the setting that its description gives as an example."""
    return build_defense({"method": name, **DEFENSES[name].about.example}, name)


def table() -> list[dict[str, str]]:
    """One row a method: name, passes, memory, data, source. Costs are of the example setting."""
    rows = []
    for name, kind in DEFENSES.items():
        defense = typical(name)
        cost = heaviest_of(defense)
        memory = f"{cost.memory:g}" + (" + activations" if cost.activations else "")
        rows.append(
            {
                "method": name,
                "passes": f"{defense.passes:.4g}",
                "memory": memory,
                "data": needs(defense),
                "source": paper(kind.about.source),
            }
        )
    return rows


def paper(source: str) -> str:
    """The first paper that a source names, or the source itself where it names none."""
    found = re.search(r"arXiv:[\d.]*\d", source)
    return found.group() if found else source


def needs(defense: Defense) -> str:
    """The rows that must be there, in words."""
    batches, words = defense.reads(), dict(_ROWS)
    if defense.answers() == "unrelated":
        words["align"] = "harmful prompts"
    parts = [words[role] + (f" x{n}" if (n := batches.get(role, 1)) > 1 else "") for role in _needed(defense)]
    return ", ".join(parts)


def _needed(defense: Defense) -> list[str]:
    """The roles whose rows must be there, in the order of `_ROWS`."""
    return [role for role in _ROWS if role in defense.needs()]


def sections(name: str) -> list[tuple[str, str]]:
    """A method in full: heading and text, in reading order."""
    about, defense = DEFENSES[name].about, typical(name)
    (_, first), *after = trainings_of(defense, 1)
    costs = [_cost("a step", first), *(_cost(f"each of {n:,} steps after the alignment", cost) for n, cost in after)]
    return [
        ("Objective", f"min over w: {about.equation}"),
        ("Idea", about.idea),
        ("Follows", about.follows),
        ("Source", about.source),
        ("Cost", ". ".join(costs)),
        ("Reads", needs(defense)),
        *([("Know", about.notes)] if about.notes else []),
    ]


def _cost(when: str, cost: Cost) -> str:
    memory = f"{cost.memory:g} times the trainable weights beyond SFT"
    memory += f", and {cost.activations}" if cost.activations else ""
    return f"{cost.passes:.4g} forward-backward passes {when}; memory: {memory}"


def hyper_parameters(name: str) -> list[dict[str, str]]:
    """One row a hyper-parameter: name, default, meaning, failure."""
    kind: Any = DEFENSES[name]
    return [
        {
            "name": field.name,
            "default": _default(field),
            "meaning": kind.about.hyper_parameters[field.name].meaning,
            "failure": kind.about.hyper_parameters[field.name].failure,
        }
        for field in dataclasses.fields(kind)
        if field.init
    ]


def example(name: str) -> str:
    """The example setting as a recipe writes it."""
    setting: Mapping[str, Any] = {"method": name, **DEFENSES[name].about.example}
    return yaml.safe_dump({"defenses": {name: dict(setting)}}, sort_keys=False, width=100).rstrip()


def page(name: str) -> str:
    """The method's page for docs/methods, in Markdown."""
    lines = [
        f"# {name}: {DEFENSES[name].about.title}",
        "",
        "<!-- Written by docs/make_methods.py from the method's own declarations. Change it there. -->",
        "",
    ]
    for heading, text in sections(name):
        lines += [f"**{heading}.** " + (f"`{text}`" if heading == "Objective" else text), ""]
    if rows := hyper_parameters(name):
        lines += ["| hyper-parameter | default | meaning | what goes wrong |", "|---|---|---|---|"]
        lines += [_row(f"`{r['name']}`", r["default"], r["meaning"], r["failure"]) for r in rows]
        lines += [""]
    lines += ["```yaml", example(name), "```", "", f"Notation: {NOTATION}", ""]
    return "\n".join(lines)


def index() -> str:
    """The list of all methods, in Markdown."""
    lines = [
        "# Methods",
        "",
        "<!-- Written by docs/make_methods.py from the methods' own declarations. Change them there. -->",
        "",
        "Passes are forward-backward passes over a batch in one step of the alignment, memory is in multiples of the "
        "trainable weights beyond SFT, at its peak. The tests hold both against measurement; they do not measure the "
        "activations that some methods keep beside.",
        "",
        "| method | passes | memory | rows it reads | source |",
        "|---|---|---|---|---|",
    ]
    lines += [
        _row(f"[{r['method']}]({r['method']}.md)", r["passes"], r["memory"], r["data"], r["source"]) for r in table()
    ]
    return "\n".join([*lines, ""])


def overview() -> RenderableType:
    """The table for the terminal, readable at 60 columns."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    shown.add_column("method", no_wrap=True)
    shown.add_column("passes", justify="right", no_wrap=True)
    shown.add_column("memory", justify="right", no_wrap=True)
    shown.add_column("rows it reads")
    shown.add_column("source", no_wrap=True)
    for name, row in zip(DEFENSES, table(), strict=True):
        defense = typical(name)
        cost = heaviest_of(defense)
        memory = f"{cost.memory:g}" + ("*" if cost.activations else " ")
        shown.add_row(name, row["passes"], memory, ", ".join(_needed(defense)), row["source"])
    legend = (
        "\npasses: forward-backward passes a step. memory: in multiples of the trainable weights, beyond SFT; * and "
        "activations. `boostershot methods NAME` tells more of one."
    )
    return Group(shown, Text(legend))


def details(name: str) -> RenderableType:
    """A method in full, for the terminal."""
    parts: list[RenderableType] = [Text(f"{name}: {DEFENSES[name].about.title}", style="bold"), Text()]
    for heading, text in sections(name):
        parts += [Text.assemble((f"{heading}: ", "bold"), text), Text()]
    for row in hyper_parameters(name):
        parts.append(Text.assemble((row["name"], "bold"), f" (default {row['default']}): {row['meaning']}"))
        parts += [Text(f"  goes wrong: {row['failure']}", style="dim"), Text()]
    return Group(*parts, Text(example(name)), Text(), Text(f"Notation: {NOTATION}", style="dim"))


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return "none"
    if isinstance(value, Defense):
        return str(describe_defense(value)["method"])
    return "null" if value is None else str(list(value) if isinstance(value, tuple) else value)
