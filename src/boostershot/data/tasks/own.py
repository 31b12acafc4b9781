"""A user's own task: a template, the column of the answers, and how an answer is scored."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import string
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from boostershot.data.tasks.scoring import choices_named, final_number, folded, same_number, same_text
from boostershot.data.tasks.task import TaskRow
from boostershot.errors import InputError, shown

Score = Literal["exact", "choice", "number", "regex", "python"]
NEEDS = {"choice": "choices", "regex": "pattern", "python": "entry_point"}  # score -> the key that it reads


@dataclass(frozen=True)
class OwnTask:
    """How a file's records become rows of a task, and which answers are right.

    Args:
        prompt: a template with `{column}` names; doubled braces are braces.
        answer: the column of the reference answer.
        score: `exact`: equal but for case, spaces around and a final full stop. `choice`: the answer names the
            reference and no other of `choices` (the column holds one of them, or its number from 0). `number`: equal
            final numbers (the first after "The final answer is:", else the last). `regex`: what `pattern` finds first
            (its group, if it has one) equals the reference as under `exact`. `python`: `entry_point` says.
        entry_point: `module:function`, installed or in the current folder: `(answer: str, row: Mapping) -> bool`, where
            `row` is the record of the file. It is imported, and so run, with the rights of the user.

    Raises:
        InputError: names the key of `data.task` and what was expected.
    """

    prompt: str
    answer: str
    score: Score
    choices: tuple[str, ...] | None = None
    pattern: str | None = None
    entry_point: str | None = None

    def __post_init__(self) -> None:
        for key in NEEDS.values():
            given, wanted = getattr(self, key), NEEDS.get(self.score) == key
            if wanted and given is None:
                raise InputError(f"data.task.{key}: is missing; score: {self.score} needs it")
            if given is not None and not wanted:
                raise InputError(f"data.task.{key}: is given; expected null, for score: {self.score} does not read it")
        _parts(self.prompt)
        if self.choices is not None:
            different = {folded(choice) for choice in self.choices} - {""}
            if len(different) < 2 or len(different) < len(self.choices):
                given = shown(list(self.choices))
                raise InputError(f"data.task.choices: is {given}; expected two or more different texts")
        if self.pattern is not None:
            _compiled(self.pattern)
        if self.entry_point is not None:
            _imported(self.entry_point)

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """The columns that the template names."""
        return tuple(name for _, name in _parts(self.prompt) if name is not None)

    @cached_property
    def function(self) -> Callable[[str, Mapping[str, Any]], Any]:
        """What `entry_point` names."""
        return _imported(str(self.entry_point))

    @property
    def code_file(self) -> Path | None:
        """The file of the user's function; None without one, or where it is not written in Python."""
        try:
            return Path(inspect.getfile(inspect.unwrap(self.function))) if self.entry_point else None
        except TypeError:
            return None

    def check_columns(self, record: Mapping[str, Any], where: str, number: int = 1) -> None:
        """InputError if the record lacks a column of the template or the answer's."""
        for key, column in [*(("prompt", name) for name in self.fields), ("answer", self.answer)]:
            if column not in record:
                have = ", ".join(sorted(map(str, record))) or "none"
                raise InputError(
                    f"{where}: row {number} has no column {column!r}, which data.task.{key} names; it has {have}"
                )

    def rows(self, records: Sequence[Mapping[str, Any]], where: str) -> list[TaskRow]:
        """The records as rows of the task.

        Raises:
            InputError: names the source, the row (from 1) and the column.
        """
        return [self._row(record, where, number) for number, record in enumerate(records, start=1)]

    def correct(self, answer: str, row: TaskRow) -> bool:
        """Is the answer right?

        Raises:
            InputError: the user's function raises, or says neither true nor false.
        """
        if self.score == "choice":
            return choices_named(answer, self.choices or ()) == {row.answer}
        if self.score == "number":
            return same_number(answer, row)
        if self.score == "regex":
            found = re.search(str(self.pattern), answer)
            part = found and found.group(found.re.groups)  # the group, or with none the whole
            return part is not None and same_text(part, row)
        return self._said(answer, row) if self.score == "python" else same_text(answer, row)

    def _row(self, record: Mapping[str, Any], where: str, number: int) -> TaskRow:
        self.check_columns(record, where, number)
        cells = {name: _cell(record[name], where, number, name) for name in {*self.fields, self.answer}}
        prompt = "".join(text + (cells[name] if name else "") for text, name in _parts(self.prompt)).strip()
        answer = cells[self.answer].strip()
        bad = f"{where}: row {number}, column {self.answer!r} is {shown(record[self.answer])}; expected "
        if not prompt or not answer:
            raise InputError(bad + "text" if prompt else f"{where}: row {number}: its prompt is empty")
        if self.score == "number" and final_number(answer) is None:
            raise InputError(bad + "a number")
        if self.choices is not None:
            named = [choice for choice in self.choices if folded(choice) == folded(answer)]
            if not named and answer.isdecimal() and int(answer) < len(self.choices):
                named = [self.choices[int(answer)]]
            if not named:
                raise InputError(f"{bad}one of {', '.join(self.choices)} (or its number from 0)")
            answer = named[0]
        return TaskRow(f"{Path(where).stem}/{number}", prompt, answer, json.dumps(record, default=str))

    def _said(self, answer: str, row: TaskRow) -> bool:
        said = f"data.task.entry_point: {self.entry_point}"
        try:
            verdict = self.function(answer, json.loads(row.entry))
        except Exception as error:
            raise InputError(f"{said} raised {type(error).__name__} for {row.id}: {error}") from error
        if type(verdict).__name__ not in ("bool", "bool_"):  # numpy's is one too
            raise InputError(f"{said} returned {shown(verdict)} for {row.id}; expected true or false")
        return bool(verdict)


def _parts(template: str) -> list[tuple[str, str | None]]:
    """Literal texts, each with the column after it, if there is one."""
    expected = "expected text with {column} names, and braces doubled elsewhere"
    try:
        found = list(string.Formatter().parse(template))
    except ValueError as error:
        raise InputError(f"data.task.prompt: {shown(template)}: {error}; {expected}") from None
    for _, name, form, conversion in found:
        if name == "" or form or conversion:
            raise InputError(f"data.task.prompt: {shown(template)} has a field that is no column's name; {expected}")
    if not any(name for _, name, _, _ in found):
        raise InputError(f"data.task.prompt: {shown(template)} names no column; {expected}")
    return [(text, name) for text, name, _, _ in found]


def _cell(value: Any, where: str, number: int, column: str) -> str:
    if not isinstance(value, str | int | float):
        raise InputError(f"{where}: row {number}, column {column!r} is {shown(value)}; expected text or a number")
    return str(value)


def _compiled(pattern: str) -> None:
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise InputError(f"data.task.pattern: {shown(pattern)} is no regular expression: {error}") from None
    if groups > 1:
        raise InputError(f"data.task.pattern: {shown(pattern)} has {groups} groups; expected at most one, (?:...) else")


def _imported(entry_point: str) -> Callable[[str, Mapping[str, Any]], Any]:
    where = f"data.task.entry_point: {entry_point}"
    module_name, mark, name = entry_point.partition(":")
    if not (mark and module_name and name.isidentifier()):
        raise InputError(f"{where}; expected module:function")
    here = str(Path.cwd())
    sys.path.append(here)  # last, so that a file there hides no installed package
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the user's module may raise anything
        raise InputError(f"{where} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(here)
    function = getattr(module, name, None)
    if not callable(function):
        raise InputError(f"{where}: {module_name} has no function {name!r}")
    try:
        inspect.signature(function).bind("answer", {})
    except (TypeError, ValueError):
        raise InputError(f"{where} does not take (answer, row); expected (answer: str, row: Mapping) -> bool") from None
    return function
