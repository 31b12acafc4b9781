"""The command line: reads options, calls one function, and says in one line what went wrong.

Exit codes: 0 done; 1 a stage failed; 2 the input is wrong; 130 and 143 stopped by SIGINT and SIGTERM.
Text for people goes to the standard error; what was asked for (recipes, `--json`) to the standard output.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, ModuleType
from typing import Annotated, Literal, NoReturn

import typer
from rich.console import Console

from boostershot import launchers, recipes
from boostershot.errors import InputError, StageFailed, choices, way_out

# Heavy imports (torch and what needs it) are inside the functions: --help and a misspelt key must not wait.

STOPPED = "stopped; the same command goes on from here"

app = typer.Typer(
    name="boostershot",
    help="Immunise a language model against harmful fine-tuning, attack it, and measure what is left.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A shipped recipe (see `boostershot recipes`) or a YAML file.")
]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="The run folder; runs/NAME if not given.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe, as in --set immunize.steps=3; repeatable."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the results as JSON to the standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print errors only.")]
Scale = Annotated[
    float | None,
    typer.Option("--scale", metavar="X", help="Take this fraction of the recipe's samples and steps, such as 0.01."),
]
Properties = Annotated[
    bool,
    typer.Option(
        "--properties", help="Measure the four immunisation properties, too (the recipe's section `properties`)."
    ),
]
Attacker = Annotated[
    str | None,
    typer.Option(
        "--attacker",
        metavar="BUDGET",
        help="Trials against each defence, and steps and rows of a trial: trials=40,steps=200,samples=300; any other "
        "key of the recipe's sweep.attacker too.",
    ),
]
Executor = Annotated[
    Literal["local", "ray"] | None,
    typer.Option("--executor", help="Who does the stages: this machine, or a Ray cluster (runtime.address)."),
]
Processes = Annotated[
    int | None, typer.Option("--processes", metavar="N", help="Stages done at once on this machine; 1 by default.")
]
Redact = Annotated[bool, typer.Option("--redact", help="Leave generated answers out of the report.")]


class Terminated(BaseException):
    """SIGTERM, as an exception: locks are released and states written on the way out."""


@app.command()
def run(
    recipe: RecipeName,
    out: Out = None,
    settings: Settings = None,
    scale: Scale = None,
    executor: Executor = None,
    processes: Processes = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    redact: Redact = False,
    properties: Properties = False,
) -> None:
    """Do everything: immunise, attack, evaluate, report. Goes on where it stopped; skips what is done."""
    _perform(
        "report",
        recipe,
        out,
        _overrides(settings, scale, executor, processes),
        dry_run,
        as_json,
        quiet,
        redact,
        properties,
    )


@app.command()
def immunize(
    recipe: RecipeName,
    out: Out = None,
    settings: Settings = None,
    scale: Scale = None,
    executor: Executor = None,
    processes: Processes = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Do a recipe up to its immunised models."""
    _perform("immunize", recipe, out, _overrides(settings, scale, executor, processes), dry_run, as_json, quiet)


@app.command()
def attack(
    recipe: RecipeName,
    out: Out = None,
    settings: Settings = None,
    scale: Scale = None,
    executor: Executor = None,
    processes: Processes = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Do a recipe up to its attacked models."""
    _perform("attack", recipe, out, _overrides(settings, scale, executor, processes), dry_run, as_json, quiet)


@app.command()
def evaluate(
    recipe: RecipeName,
    out: Out = None,
    settings: Settings = None,
    scale: Scale = None,
    executor: Executor = None,
    processes: Processes = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    properties: Properties = False,
) -> None:
    """Do a recipe up to its scores; with --properties, a scorecard besides."""
    _perform(
        "evaluate",
        recipe,
        out,
        _overrides(settings, scale, executor, processes),
        dry_run,
        as_json,
        quiet,
        properties=properties,
    )


@app.command()
def sweep(
    recipe: RecipeName,
    attacker: Attacker = None,
    out: Out = None,
    settings: Settings = None,
    scale: Scale = None,
    executor: Executor = None,
    processes: Processes = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    redact: Redact = False,
) -> None:
    """Do everything, then let an attacker with a budget tune his attack against every defence (`sweep` in a recipe)."""
    budget = [f"sweep.attacker.{pair}" for pair in _budget(attacker)]
    overrides = _overrides([*(settings or ()), *budget], scale, executor, processes)
    _perform("report", recipe, out, overrides, dry_run, as_json, quiet, redact, sweep=True)


def _budget(attacker: str | None) -> list[str]:
    """The pairs of --attacker."""
    pairs = [pair.strip() for pair in attacker.split(",")] if attacker is not None else []
    for pair in pairs:
        key, mark, value = pair.partition("=")
        if not (key.strip() and mark and value.strip()):
            raise InputError(f"--attacker {pair}: expected KEY=VALUE pairs, such as trials=40,steps=200,samples=300")
    return pairs


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a finished run.")],
    redact: Redact = False,
) -> None:
    """Write report.html anew from a run's results."""
    from boostershot.report import write_report

    _console(quiet=False).print(f"Report: {write_report(folder, redact)}")


@app.command()
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

    chosen = load_recipe(recipe, _overrides(settings, scale))
    from boostershot.pipeline import capacity, capacity_text, devices, footprint

    known, config = devices.device(device), footprint.read_config(chosen.model.id)
    plans = capacity.plan(chosen, config, known, count, bf16, checkpointing)
    if as_json:
        print(json.dumps([planned.to_dict() for planned in plans], indent=2))
    else:
        for line in capacity_text.lines(plans):
            print(line)


@app.command(name="recipes")
def list_recipes(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Print this recipe.")] = None,
) -> None:
    """List the shipped recipes, or print one to start your own from."""
    _list_shipped("recipe", recipes, name)


@app.command(name="launchers")
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


@app.command(name="methods")
def list_methods(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Tell all of this defence.")] = None,
) -> None:
    """List the defences with what they cost and read, or tell one in full."""
    from boostershot import methods
    from boostershot.defenses import DEFENSES

    _check_known("method", name, DEFENSES)
    _console(quiet=False, stderr=False).print(methods.details(name) if name else methods.overview())


@app.command(name="attacks")
def list_attacks(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Tell all of this attack.")] = None,
) -> None:
    """List the attacks, or tell one in full."""
    from boostershot import attack_pages
    from boostershot.attacks import ATTACKS

    _check_known("attack", name, ATTACKS)
    _console(quiet=False, stderr=False).print(attack_pages.details(name) if name else attack_pages.overview())


def _check_known(kind: str, name: str | None, known: Collection[str]) -> None:
    if name is not None and name not in known:
        raise InputError(f"{name}: no such {kind}; {choices(name, known)}")


data = typer.Typer(name="data", help="Look at data before a recipe uses it.", rich_markup_mode=None)
app.add_typer(data)


@data.callback()
def _data() -> None:
    """Look at data before a recipe uses it."""


@data.command(name="check")
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
        for line in check_text.lines(found, _console(quiet=False, stderr=False).width):
            print(line)
    if found.problem:
        raise InputError(found.problem)


def _column(pair: str) -> tuple[str, str]:
    ours, mark, theirs = pair.partition("=")
    if not (ours and mark and theirs):
        raise InputError(f"--columns {pair}: expected OURS=THEIRS, such as prompt=question")
    return ours, theirs


@app.command(name="lm-eval-tasks")
def lm_eval_tasks() -> None:
    """Print the folder of our lm-eval tasks: lm_eval --include_path $(boostershot lm-eval-tasks) ..."""
    print(Path(__file__).parent / "integrations" / "lm_eval")


def _print_version(asked: bool) -> None:
    if asked:
        try:
            print(f"boostershot {importlib.metadata.version('boostershot')}")
        except importlib.metadata.PackageNotFoundError:
            print("boostershot, run from its source tree")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Immunise a language model against harmful fine-tuning, attack it, and measure what is left."""


def _overrides(
    settings: Sequence[str] | None,
    scale: float | None,
    executor: str | None = None,
    processes: int | None = None,
) -> list[str]:
    """The changes to the recipe, those that have an option of their own last."""
    own = {"scale": scale, "runtime.executor": executor, "runtime.processes": processes}
    return [*(settings or ()), *(f"{key}={value!r}" for key, value in own.items() if value is not None)]


def _perform(
    until: Literal["immunize", "attack", "evaluate", "report"],
    name: str,
    out: Path | None,
    overrides: Sequence[str],
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    redact: bool = False,
    properties: bool = False,
    sweep: bool = False,
) -> None:
    from boostershot.config import load_recipe

    recipe = load_recipe(name, overrides)
    folder = out or Path("runs") / recipe.name
    console = _console(quiet)
    with _crash_log(folder):
        from boostershot.pipeline import grid
        from boostershot.pipeline.progress import Reporter

        if dry_run:
            for line in grid.plan(recipe, properties, sweep):
                console.print(line)
            return
        with _results_told(folder, console, as_json, sweep):
            grid.run(
                recipe,
                folder,
                until=until,
                properties=properties,
                sweep=sweep,
                redact=redact,
                reporter=Reporter(console, quiet),
            )


@contextmanager
def _results_told(folder: Path, console: Console, as_json: bool, sweep: bool) -> Iterator[None]:
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
                console.print(table(json.loads(text)))
        if as_json and text is not None:  # of the last, which is what the command is about
            print(text, end="")


def _written(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None


def _console(quiet: bool, stderr: bool = True) -> Console:
    """For people; plain text where it is no terminal or NO_COLOR is set. Brackets are no markup."""
    wrap = not (sys.stderr if stderr else sys.stdout).isatty()  # a file's reader breaks lines himself
    return Console(
        stderr=stderr,
        quiet=quiet,
        color_system=None if os.environ.get("NO_COLOR") else "auto",
        markup=False,
        emoji=False,
        highlight=False,
        soft_wrap=wrap,
    )


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
        raise StageFailed(_described(error) + _logged(folder)) from error


def _described(error: Exception) -> str:
    said = str(error).strip().splitlines()
    return (f"{type(error).__name__}: {said[0]}" if said else type(error).__name__) + way_out(error)


def _logged(folder: Path) -> str:
    log = folder / "crash.log"
    try:
        if folder.is_dir():
            log.write_text(traceback.format_exc(), encoding="utf-8")
            return f" (traceback in {log})"
    except OSError:
        return ""
    return ""


def call(arguments: Sequence[str]) -> int:
    """Run one command, in the processes of a launcher if there are several; its exit code."""
    if "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1":
        from boostershot.pipeline import together

        code, said = together.run(lambda: _called(arguments))
    else:
        code, said = _called(arguments)
    if said:
        print(f"boostershot: {said}", file=sys.stderr)
    return code


def _called(arguments: Sequence[str]) -> tuple[int, str]:
    """A command's exit code, and what is to be said of its failure."""
    # Hugging Face libraries read these once, when they are imported; TRL's trainers send telemetry otherwise.
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = os.environ["DO_NOT_TRACK"] = "1"
    try:
        with _sigterm_raises():
            code = app(args=list(arguments), prog_name="boostershot", standalone_mode=False)
    except InputError as error:
        return _fail(error, 2)
    except StageFailed as error:
        return _fail(error, 1)
    except typer.TyperException as error:  # an unknown option, a missing argument
        return _fail(error.format_message(), 2)
    except Terminated:
        return _fail(STOPPED, 128 + signal.SIGTERM)
    except Exception as error:
        return _fail(_described(error), 1)
    if code == 128 + signal.SIGINT:  # typer's word for KeyboardInterrupt
        return _fail(STOPPED, code)
    return code or 0, ""


def _fail(message: object, code: int) -> tuple[int, str]:
    from boostershot.data.visible import visible

    return code, visible(" ".join(str(message).split()))


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    def terminate(number: int, frame: FrameType | None) -> NoReturn:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():  # only there can handlers be set
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main() -> None:
    """The command `boostershot`."""
    sys.exit(call(sys.argv[1:]))
