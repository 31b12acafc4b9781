"""All commands, by name."""

from __future__ import annotations

import importlib.metadata
from typing import Annotated

import typer

from boostershot.cli import doing, looking

HELP = "Immunise a language model against harmful fine-tuning, attack it, and measure what is left."
app = typer.Typer(
    name="boostershot",
    help=HELP,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
DO_A_RECIPE = (doing.run, doing.immunize, doing.attack, doing.evaluate, doing.sweep)
for command in (*DO_A_RECIPE, looking.report, looking.plan):
    app.command()(command)
app.command(name="recipes")(looking.list_recipes)
app.command(name="launchers")(looking.list_launchers)
app.command(name="methods")(looking.list_methods)
app.command(name="attacks")(looking.list_attacks)
app.command(name="lm-eval-tasks")(looking.lm_eval_tasks)

data = typer.Typer(name="data", help="Look at data before a recipe uses it.", rich_markup_mode=None)
data.callback()(lambda: None)  # keeps `check` a command of its own, though it is the only one
data.command(name="check")(looking.check_data)
app.add_typer(data)


def _print_version(asked: bool) -> None:
    if asked:
        try:
            print(f"boostershot {importlib.metadata.version('boostershot')}")
        except importlib.metadata.PackageNotFoundError:
            print("boostershot, run from its source tree")
        raise typer.Exit()


@app.callback(help=HELP)
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """The options that come before a command."""
