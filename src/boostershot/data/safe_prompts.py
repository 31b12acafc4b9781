"""Harmless prompts that look harmful: what an over-cautious model refuses (XSTest, a file of one's own, a built-in)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from boostershot.data.files import read_records
from boostershot.data.looks_harmful import LOOKS_HARMFUL
from boostershot.data.rows import HarmfulPrompt, check_ids, text_of
from boostershot.errors import InputError

BUILT_IN = "built-in:looks-harmful"
XSTEST = frozenset({"prompt", "type", "focus"})
CONTRAST = "contrast_"  # what the types of XSTest's unsafe prompts start with


@dataclass(frozen=True)
class SafePrompt:
    """A prompt that should be answered; `type` is what makes it look harmful."""

    id: str
    prompt: str
    type: str = "none"


def load_safe_prompts(
    source: str, split: str | None = None, columns: Mapping[str, str] | None = None
) -> list[SafePrompt]:
    """The safe prompts of a source: of XSTest without its unsafe contrast prompts, which are harmful prompts.

    Args:
        source: `built-in:looks-harmful`, a Hub id or a local file with `prompt`, optionally `type`, `id` and `label`
            (safe or unsafe).
        split: of a Hub data set.
        columns: our name (prompt, type, label) -> the source's.

    Raises:
        InputError: the source cannot be read, a row is bad, or none is safe.
    """
    if source == BUILT_IN:
        return [
            SafePrompt(f"looks-harmful/{kind}/{number}", prompt, kind)
            for kind, prompts in LOOKS_HARMFUL.items()
            for number, prompt in enumerate(prompts)
        ]
    if source.startswith("built-in:"):
        raise InputError(f"safe prompts: {source!r}; expected {BUILT_IN}, a Hub id or a file")
    records, names = read_records(source, split), columns or {}
    rows = [row for row, safe in labelled_prompts(records, source, names) if safe]
    if not rows:
        raise InputError(f"{source}: none of its {len(records)} rows is a safe prompt; expected at least one")
    return rows


def labelled_prompts(
    records: Sequence[Mapping[str, Any]], where: str, columns: Mapping[str, str]
) -> list[tuple[SafePrompt, bool]]:
    """All prompts, each with whether it is safe.

    Raises:
        InputError: names the source, the row (from 1) and the column, or the two rows of one id.
    """
    rows = [
        (
            SafePrompt(
                _identity(record, number), text_of(record, "prompt", where, number, columns), _type(record, columns)
            ),
            _is_safe(record, where, number, columns),
        )
        for number, record in enumerate(records, start=1)
    ]
    check_ids((row for row, _ in rows), where)
    return rows


def is_xstest(records: Sequence[Mapping[str, Any]]) -> bool:
    """Are these records of XSTest, of whichever release?"""
    return bool(records) and records[0].keys() >= XSTEST


def xstest_unsafe(records: Sequence[Mapping[str, Any]], where: str) -> list[HarmfulPrompt]:
    """XSTest's unsafe contrast prompts.

    Raises:
        InputError: a row is bad, or none is unsafe.
    """
    rows = [
        HarmfulPrompt(f"xstest/{row.id}", row.prompt, row.type)
        for row, safe in labelled_prompts(records, where, {})
        if not safe
    ]
    if not rows:
        raise InputError(f"{where}: none of its {len(records)} rows is an unsafe prompt; expected at least one")
    return rows


def _is_safe(record: Mapping[str, Any], where: str, number: int, columns: Mapping[str, str]) -> bool:
    """What the row's label says; without one (XSTest's first releases) a prompt is unsafe if its type is a contrast.

    Raises:
        InputError: the label is neither safe nor unsafe.
    """
    column = columns.get("label", "label")
    if column not in record:
        if "label" in columns:
            text_of(record, "label", where, number, columns)  # says that the column is missing
        return not _type(record, columns).startswith(CONTRAST)
    label = record[column]
    if label not in ("safe", "unsafe"):
        raise InputError(f"{where}: row {number}, column {column!r} is {label!r}; expected safe or unsafe")
    return label == "safe"


def _type(record: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    return str(record.get(columns.get("type", "type")) or "none")


def _identity(record: Mapping[str, Any], number: int) -> str:
    return str(record["id"]) if record.get("id") is not None else f"row-{number}"
