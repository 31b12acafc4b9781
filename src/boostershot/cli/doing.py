"""The commands that do a recipe, up to one of its stages."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from boostershot.cli.console import console
from boostershot.cli.request import Redact, Request, of_a_recipe
from boostershot.errors import InputError, StageFailed, described

Properties = Annotated[
    bool,
    typer.Option(
        "--properties", help="Measure the four immunisation properties, too (the recipe's section `properties`)."
    ),
]


@of_a_recipe
def run(request: Request, redact: Redact = False, properties: Properties = False) -> None:
    """Do everything: immunise, attack, evaluate, report. Goes on where it stopped; skips what is done."""
    _perform(request, "report", redact=redact, properties=properties)


@of_a_recipe
def immunize(request: Request) -> None:
    """Do a recipe up to its immunised models."""
    _perform(request, "immunize")


@of_a_recipe
def attack(request: Request) -> None:
    """Do a recipe up to its attacked models."""
    _perform(request, "attack")


@of_a_recipe
def evaluate(request: Request, properties: Properties = False) -> None:
    """Do a recipe up to its scores; with --properties, a scorecard besides."""
    _perform(request, "evaluate", properties=properties)


@of_a_recipe
def sweep(
    request: Request,
    attacker: Annotated[
        str | None,
        typer.Option(
            "--attacker",
            metavar="BUDGET",
            help="Trials against each defence, and steps and rows of a trial: trials=40,steps=200,samples=300; any "
            "other key of the recipe's sweep.attacker too.",
        ),
    ] = None,
    redact: Redact = False,
) -> None:
    """Do everything, then let an attacker with a budget tune his attack against every defence (`sweep` in a recipe)."""
    budget = [f"sweep.attacker.{pair}" for pair in _budget(attacker)]
    tuned = replace(request, settings=[*(request.settings or ()), *budget])
    _perform(tuned, "report", redact=redact, sweep=True)


def _budget(attacker: str | None) -> list[str]:
    """The pairs of --attacker; commas within brackets belong to a value."""
    pairs, depth = [""] if attacker is not None else [], 0
    for character in attacker or "":
        depth += (character in "[{") - (character in "]}")
        if character == "," and not depth:
            pairs.append("")
        else:
            pairs[-1] += character
    pairs = [pair.strip() for pair in pairs]
    for pair in pairs:
        key, mark, value = pair.partition("=")
        if not (key.strip() and mark and value.strip()):
            raise InputError(f"--attacker {pair}: expected KEY=VALUE pairs, such as trials=40,steps=200,samples=300")
    return pairs


def _perform(
    request: Request,
    until: Literal["immunize", "attack", "evaluate", "report"],
    *,
    redact: bool = False,
    properties: bool = False,
    sweep: bool = False,
) -> None:
    from boostershot.config import load_recipe

    if request.as_json and until in ("immunize", "attack"):
        raise InputError(
            f"--json: is given, and {until} comes to no results; expected it beside evaluate, run or sweep"
        )
    recipe = load_recipe(request.recipe, request.overrides)
    folder = request.out or Path("runs") / recipe.name
    screen = console(request.quiet)
    with _crash_log(folder):
        from boostershot.pipeline import grid
        from boostershot.pipeline.progress import Reporter

        if request.dry_run:
            for line in grid.plan(recipe, properties, sweep):
                screen.print(line)
            return
        with _results_told(folder, screen, request.as_json, sweep):
            grid.run(
                recipe,
                folder,
                until=until,
                properties=properties,
                sweep=sweep,
                redact=redact,
                reporter=Reporter(screen, request.quiet),
            )


@contextmanager
def _results_told(folder: Path, screen: Console, as_json: bool, sweep: bool) -> Iterator[None]:
    """Show the results that the body writes, those of a run in which some cells failed included."""
    from boostershot.report import results_table, sweep_table

    told = [(folder / "results.json", results_table), *([(folder / "sweep.json", sweep_table)] if sweep else [])]
    before = [_written(path) for path, _ in told]
    try:
        yield
    finally:
        text = None
        for (path, table), earlier in zip(told, before, strict=True):
            if _written(path) != earlier:
                text = path.read_text(encoding="utf-8")
                screen.print(table(json.loads(text)))
        if as_json and text is not None:  # of the last, which is what the command is about
            print(text, end="")


def _written(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None


@contextmanager
def _crash_log(folder: Path) -> Iterator[None]:
    """Make StageFailed of what nobody foresaw, with the traceback in the run folder."""
    try:
        yield
    except (InputError, StageFailed):
        raise
    except Exception as error:
        from boostershot.pipeline.files import disk_is_full, full_disk

        if disk_is_full(error):
            raise full_disk(folder) from error
        raise StageFailed(described(error) + _logged(folder)) from error


def _logged(folder: Path) -> str:
    log = folder / "crash.log"
    try:
        if folder.is_dir():
            log.write_text(traceback.format_exc(), encoding="utf-8")
            return f" (traceback in {log})"
    except OSError:
        return ""
    return ""
