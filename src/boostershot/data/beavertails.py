"""BeaverTails (PKU-Alignment/BeaverTails), and its copies with refusals, recognised by their columns.

A record holds `prompt, response, is_safe`, `category` (fourteen booleans) and, in the copies with refusals, `refusal`:
"Question: <the prompt>", a line break, "Answer: <a safe answer>".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from boostershot.data.rows import HarmfulPrompt, text_of
from boostershot.errors import InputError

COLUMNS = frozenset({"prompt", "response", "is_safe"})
QUESTION, ANSWER = "Question:", "\nAnswer:"


def is_beavertails(records: Sequence[Mapping[str, Any]]) -> bool:
    """Are these records of BeaverTails?"""
    return bool(records) and records[0].keys() >= COLUMNS


def beavertails_rows(records: Sequence[Mapping[str, Any]], where: str) -> list[HarmfulPrompt]:
    """The records whose response was judged unsafe, named after their place in the source.

    Raises:
        InputError: names the source, the row (from 1) and the column.
    """
    rows = []
    for number, record in enumerate(records, start=1):
        if not isinstance(record.get("is_safe"), bool):
            found = record.get("is_safe")
            raise InputError(f"{where}: row {number}, column 'is_safe' is {found!r}; expected true or false")
        if record["is_safe"]:
            continue
        prompt = text_of(record, "prompt", where, number, {})
        refusal, names = record.get("refusal"), categories_of(record.get("category"))
        rows.append(
            HarmfulPrompt(
                id=f"row-{number}",
                prompt=prompt,
                category=names[0],
                chosen=answer_in(refusal, prompt) if isinstance(refusal, str) else None,
                rejected=text_of(record, "response", where, number, {}),
                categories=names,
            )
        )
    if not rows:
        raise InputError(f"{where}: none of its {len(records)} rows is unsafe; expected at least one")
    return rows


def categories_of(flags: object) -> tuple[str, ...]:
    """The categories that hold, as the source orders them; `none` where none does."""
    if not isinstance(flags, Mapping):
        return (str(flags or "none"),)
    return tuple(str(name) for name, holds in flags.items() if holds) or ("none",)


def answer_in(refusal: str, prompt: str) -> str | None:
    """The answer in a `refusal` cell; None where there is none.

    The cut is at the first "Answer:" line after the prompt, which may hold such a line itself. A cell that does not
    start with "Question:" is all answer.
    """
    text = refusal.strip()
    if text.startswith(QUESTION):
        text = text.removeprefix(QUESTION).strip().removeprefix(prompt)
        text = text.partition(ANSWER)[2].strip()
    return text or None
