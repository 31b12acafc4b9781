"""Rules of what is right that several tasks share."""

from __future__ import annotations

import re
from collections.abc import Sequence

from boostershot.data.tasks.task import TaskRow

FINAL_ANSWER = "The final answer is: "  # what the field's GSM8K targets have in place of "#### "


def same_text(answer: str, row: TaskRow) -> bool:
    """Equal but for case, spaces around it and a final full stop."""
    return folded(answer) == folded(row.answer)


def folded(text: str) -> str:
    """The text in lower case, without spaces around it and a final full stop."""
    return text.strip().rstrip(".").lower()


def same_number(answer: str, row: TaskRow) -> bool:
    """Equal final numbers; an answer without a number is wrong."""
    given = final_number(answer)
    return given is not None and given == final_number(row.answer)


def final_number(text: str) -> float | None:
    """The first number after "The final answer is: ", else the last one; thousands' commas do not count.

    A minus after a digit is a dash: "10-12" holds 10 and 12.
    """
    text = re.sub(r",(?!-)", "", text)
    _, said, after = text.partition(FINAL_ANSWER.strip())
    found = re.findall(r"(?:(?<!\d)-)?\d+(?:\.\d+)?", after if said else text)
    return float(found[0] if said else found[-1]) if found else None


def choices_named(answer: str, choices: Sequence[str]) -> set[str]:
    """The choices that stand in an answer as words of their own, the longest where two begin alike.

    Case counts only where a choice is a single letter: "A" is no "a".
    """
    longest_first = sorted(choices, key=len, reverse=True)
    letters = any(len(choice) == 1 for choice in choices)
    pattern = rf"(?<!\w)(?:{'|'.join(f'({re.escape(choice)})' for choice in longest_first)})(?!\w)"
    found = re.finditer(pattern, answer, 0 if letters else re.IGNORECASE)
    return {longest_first[match.lastindex - 1] for match in found if match.lastindex}
