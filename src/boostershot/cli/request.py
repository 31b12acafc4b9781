"""The options that several commands have, and those that all commands which do a recipe have, declared once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A shipped recipe (see `boostershot recipes`) or a YAML file.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe, as in --set immunize.steps=3; repeatable."),
]
Scale = Annotated[
    float | None,
    typer.Option("--scale", metavar="X", help="Take this fraction of the recipe's samples and steps, such as 0.01."),
]
Redact = Annotated[bool, typer.Option("--redact", help="Leave generated answers out of the report.")]
Executor = Literal["local", "ray"]


@dataclass(frozen=True)
class Request:
    """What is to be done with a recipe, as the command line says it."""

    recipe: RecipeName
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="The run folder; runs/NAME if not given.")
    ] = None
    settings: Settings = None
    scale: Scale = None
    executor: Annotated[
        Executor | None,
        typer.Option("--executor", help="Who does the stages: this machine, or a Ray cluster (runtime.address)."),
    ] = None
    processes: Annotated[
        int | None, typer.Option("--processes", metavar="N", help="Stages done at once on this machine; 1 by default.")
    ] = None
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON to the standard output.")] = False
    quiet: Annotated[bool, typer.Option("--quiet", help="Print errors only.")] = False

    @property
    def overrides(self) -> list[str]:
        """The changes to the recipe, those that have an option of their own last."""
        own = {"runtime.executor": self.executor, "runtime.processes": self.processes}
        return [*changes(self.settings, self.scale), *_pairs(own)]


def changes(settings: Sequence[str] | None, scale: float | None) -> list[str]:
    """The changes to a recipe that --set and --scale ask for."""
    return [*(settings or ()), *_pairs({"scale": scale})]


def _pairs(values: dict[str, Any]) -> list[str]:
    return [f"{key}={value!r}" for key, value in values.items() if value is not None]


def of_a_recipe(command: Callable[..., None]) -> Callable[..., None]:
    """A function of a request and further options, as typer takes one: the options of both, the request's first."""
    common = inspect.signature(Request, eval_str=True).parameters
    _, *own = inspect.signature(command, eval_str=True).parameters.values()

    @wraps(command)
    def called(**given: Any) -> None:
        request = Request(**{name: given.pop(name) for name in common})
        command(request, **given)

    called.__signature__ = inspect.Signature([*common.values(), *own])  # type: ignore[attr-defined]
    return called
