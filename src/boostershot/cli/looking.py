"""The commands that tell something, of a run, a recipe, a method or a data file, and train nothing."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from boostershot import launchers, recipes
from boostershot.cli.console import console
from boostershot.cli.request import RecipeName, Redact, Scale, Settings, changes
from boostershot.errors import InputError, choices


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a finished run.")],
    redact: Redact = False,
) -> None:
    """Write report.html anew from a run's results."""
    from boostershot.report import write_report

    console().print(f"Report: {write_report(folder, redact)}")


def plan(
    recipe: RecipeName,
    device: Annotated[
        str, typer.Option("--device", metavar="NAME", help="Such as h100-80g, a100-40g or cpu (this machine).")
    ] = "cpu",
    count: Annotated[int, typer.Option("--count", metavar="N", min=1, help="How many of them.")] = 1,
    bf16: Annotated[
        bool | None, typer.Option(help="Frozen weights and arithmetic in bfloat16; as in the recipe if not given.")
    ] = None,
    checkpointing: Annotated[
        bool | None, typer.Option(help="Activation checkpointing in training; as in the recipe if not given.")
    ] = None,
    settings: Settings = None,
    scale: Scale = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Tell what memory and time a recipe takes on given devices; the model's config.json is all that is read."""
    from boostershot.config import load_recipe

    chosen = load_recipe(recipe, changes(settings, scale))
    from boostershot.pipeline import capacity, capacity_text, devices, footprint

    known, config = devices.device(device), footprint.read_config(chosen.model.id)
    plans = capacity.plan(chosen, config, known, count, bf16, checkpointing)
    if as_json:
        print(json.dumps([planned.to_dict() for planned in plans], indent=2))
    else:
        for line in capacity_text.lines(plans):
            print(line)


def list_recipes(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Print this recipe.")] = None,
) -> None:
    """List the shipped recipes, or print one to start your own from."""
    _list_shipped("recipe", recipes, name)


def list_launchers(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Print this configuration.")] = None,
) -> None:
    """List the configurations for `accelerate launch`, or print one to start your own from."""
    _list_shipped("launcher", launchers, name)


def _list_shipped(kind: str, shipped: ModuleType, name: str | None) -> None:
    if name is None:
        width = max(map(len, shipped.names()))
        for one in shipped.names():
            print(f"{one:{width}}  {shipped.description(one)}")
        return
    _check_known(kind, name, shipped.names())
    print(shipped.text(name), end="")


def list_methods(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Tell all of this defence.")] = None,
) -> None:
    """List the defences with what they cost and read, or tell one in full."""
    from boostershot import methods
    from boostershot.defenses import DEFENSES

    _check_known("method", name, DEFENSES)
    console(stderr=False).print(methods.details(name) if name else methods.overview())


def list_attacks(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Tell all of this attack.")] = None,
) -> None:
    """List the attacks, or tell one in full."""
    from boostershot import attack_pages
    from boostershot.attacks import ATTACKS

    _check_known("attack", name, ATTACKS)
    console(stderr=False).print(attack_pages.details(name) if name else attack_pages.overview())


def _check_known(kind: str, name: str | None, known: Collection[str]) -> None:
    if name is not None and name not in known:
        raise InputError(f"{name}: no such {kind}; {choices(name, known)}")


def check_data(
    source: Annotated[str, typer.Argument(metavar="FILE", help="A file, a Hub id or a built-in name.")],
    split: Annotated[str | None, typer.Option("--split", metavar="S", help="The split of a Hub data set.")] = None,
    against: Annotated[
        list[str] | None,
        typer.Option("--against", metavar="FILE", help="Count the prompts shared with it (NAME@SPLIT); repeatable."),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option("--columns", metavar="OURS=THEIRS", help="As data.align.columns in a recipe; repeatable."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Tell what a file holds and how a recipe would read it; exit with 2 if it would refuse it."""
    from boostershot.data import check, check_text

    named = dict(_column(pair) for pair in columns or ())
    found = check.check_data(source, split, named, against or ())
    if as_json:
        print(json.dumps(found.to_dict(), indent=2))
    else:
        for line in check_text.lines(found, console(stderr=False).width):
            print(line)
    if found.problem:
        raise InputError(found.problem)


def _column(pair: str) -> tuple[str, str]:
    ours, mark, theirs = pair.partition("=")
    if not (ours and mark and theirs):
        raise InputError(f"--columns {pair}: expected OURS=THEIRS, such as prompt=question")
    return ours, theirs


def lm_eval_tasks() -> None:
    """Print the folder of our lm-eval tasks: lm_eval --include_path $(boostershot lm-eval-tasks) ..."""
    print(Path(__file__).parents[1] / "integrations" / "lm_eval")
