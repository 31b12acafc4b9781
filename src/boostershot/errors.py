"""The two ways in which boostershot tells a user that it cannot go on, and the words that their messages share."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from typing import Any


class InputError(ValueError):
    """Something that the user gave is wrong; the message is one line that names it and what was expected.

    The command line prints the line and exits with 2.
    """


class StageFailed(RuntimeError):
    """A stage could not finish (disk full, out of memory, a non-finite loss); the command line exits with 1."""


def shown(value: Any) -> str:
    """A value as the recipe's author wrote it, on one line and short."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):  # a date, a self-referring alias
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


def choices(name: object, allowed: Iterable[str]) -> str:
    """The end of a message about a wrong name: the allowed ones, and the nearest of them if one is near."""
    allowed = list(allowed)
    near = nearest(name, allowed)
    return f"expected one of {', '.join(allowed)}" + (f' (did you mean "{near}"?)' if near else "")


def nearest(name: object, allowed: Iterable[str]) -> str | None:
    """The allowed name that this one looks like, if any; case, - and _ do not count."""
    by_folded = {_folded(one): one for one in allowed}
    near = difflib.get_close_matches(_folded(str(name)), by_folded, n=1, cutoff=0.6)
    return by_folded[near[0]] if near else None


def _folded(name: str) -> str:
    return name.lower().replace("-", "_")


def in_a_line(error: BaseException) -> str:
    """What an error says, on one line; where memory ran out, with what needs less."""
    return (" ".join(str(error).split()) or type(error).__name__) + way_out(error)


def described(error: BaseException) -> str:
    """An error that nobody foresaw, on one line: its kind and its first line; where memory ran out, what needs less."""
    said = str(error).strip().splitlines()
    return (f"{type(error).__name__}: {said[0]}" if said else type(error).__name__) + way_out(error)


def way_out(error: BaseException) -> str:
    """The end of a message about an error: what needs less memory, where that ran out; nothing else."""
    if isinstance(error, MemoryError) or any(words in str(error).lower() for words in _NO_MEMORY):
        return (
            "; less memory is needed by runtime.checkpointing, a smaller runtime.micro_batch_size (of the alignment), "
            "batch of an attack, or runtime.generation_batch_size"
        )
    return ""


_NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")
