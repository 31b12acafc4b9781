"""One call of a command: its exit code, and one line for what went wrong."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import typer

from boostershot.cli.app import DO_A_RECIPE, app
from boostershot.errors import InputError, StageFailed, described

STOPPED = "stopped; the same command goes on from here"


class Terminated(BaseException):
    """SIGTERM, as an exception: locks are released and states written on the way out."""


def call(arguments: Sequence[str]) -> int:
    """Run one command, in the processes of a launcher if there are several; its exit code."""
    if "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1" and _does_a_recipe(arguments):
        from boostershot.pipeline import together

        try:
            code, said = together.run(lambda: _called(arguments))
        except InputError as error:  # of the launcher's variables
            code, said = _fail(error, 2)
    else:
        code, said = _called(arguments)
    if said:
        print(f"boostershot: {said}", file=sys.stderr)
    return code


def _does_a_recipe(arguments: Sequence[str]) -> bool:
    """All other commands, and the help, look at something and wait for no other process."""
    names = [command.__name__ for command in DO_A_RECIPE]
    return bool(arguments) and arguments[0] in names and not {"-h", "--help"} & {*arguments}


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
        return _fail(described(error), 1)
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
