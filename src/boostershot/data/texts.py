"""Neutral text, whose likelihood tells what a model has lost of the language (perplexity)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from boostershot.data.files import read_records
from boostershot.data.neutral import NEUTRAL
from boostershot.data.rows import Completion, completions, text_of
from boostershot.data.tasks import load_task
from boostershot.data.tasks.load import GYM
from boostershot.errors import InputError

BUILT_IN = "built-in:neutral"


def load_texts(
    source: str,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[Completion]:
    """Texts in the source's order; the `prompt` of a plain text is empty, and all of it is to be scored.

    Args:
        source: `built-in:neutral`; `reasoning-gym:NAME` (the test rows: question and answer); or a Hub id or local
            file with one text column (`text`, as WikiText has it; its blank rows are left out), or with `prompt` and
            `completion` or `messages`.
        split: of a Hub data set.
        columns: our name (text, or prompt and completion) -> the source's.
        options: of a reasoning-gym task.

    Raises:
        InputError: the source cannot be read, a row is bad, or there is no text.
    """
    if source == BUILT_IN:
        return [Completion(f"neutral/{number}", "", text) for number, text in enumerate(NEUTRAL)]
    if source.startswith("built-in:"):
        raise InputError(f"texts: {source!r}; expected {BUILT_IN}, {GYM}NAME, a Hub id or a file")
    if source.startswith(GYM):
        rows = load_task(source, options=options).splits["test"]
        return [Completion(row.id, row.prompt, row.answer) for row in rows]
    records, names = read_records(source, split), columns or {}
    if "text" not in names and (not records or "text" not in records[0]):
        return completions(records, source, names)
    return text_rows(records, source, names)


def text_rows(records: Sequence[Mapping[str, Any]], where: str, columns: Mapping[str, str]) -> list[Completion]:
    """The texts of one column, less the blank ones.

    Raises:
        InputError: names the source, the row (from 1) and the column.
    """
    texts, column = [], columns.get("text", "text")
    for number, record in enumerate(records, start=1):
        blank = isinstance(record.get(column), str) and not record[column].strip()
        if not blank:
            texts.append(Completion(f"row-{number}", "", text_of(record, "text", where, number, columns)))
    if not texts:
        raise InputError(f"{where}: all {len(records)} rows of column {column!r} are blank; expected some text")
    return texts
