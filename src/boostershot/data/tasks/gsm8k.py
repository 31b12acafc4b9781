"""GSM8K (openai/gsm8k:main): the answer keeps its reasoning, and "#### 18" becomes "The final answer is: 18".

The published wording and rule are those of the Booster paper's code (git-disl/Booster: gsm8k/pred_eval.py).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from boostershot.data.rows import text_of
from boostershot.data.tasks.scoring import FINAL_ANSWER, final_number, same_number
from boostershot.data.tasks.task import Kind, TaskRow, Variant
from boostershot.errors import InputError


def _read(
    records: Sequence[Mapping[str, Any]], where: str, columns: Mapping[str, str], variant: Variant
) -> list[TaskRow]:
    rows = []
    for number, record in enumerate(records, start=1):
        question = text_of(record, "prompt", where, number, {"prompt": "question", **columns})
        answer = text_of(record, "answer", where, number, columns)
        if variant == "published":  # the mark's own space stays, so that two stand before the number
            rows.append(TaskRow(f"gsm8k/{number}", question, answer.replace("####", FINAL_ANSWER)))
            continue
        reasoning, mark, final = answer.rpartition("####")
        if not mark or final_number(final) is None:
            raise InputError(f"{where}: row {number}, column 'answer' ends in no '#### number'")
        rows.append(TaskRow(f"gsm8k/{number}", question, f"{reasoning}{FINAL_ANSWER}{final.strip()}"))
    return rows


def _published(answer: str, row: TaskRow) -> bool:
    """Equal numbers by the published extraction; two texts without any number are equal there."""
    return published_number(answer) == published_number(row.answer)


def published_number(text: str) -> float:
    """The number that the published code reads, its quirks included.

    Commas do not count. The first number between the first "The final answer is: " (with its space) and the next; if
    there is none, the last number of the whole text; infinity for a text without a number.
    """
    text = text.replace(",", "")
    numbers = re.findall(r"-?\d+\.?\d*", text)
    if not numbers:
        return math.inf
    said = text.split(FINAL_ANSWER)
    after = re.findall(r"-?\d+\.?\d*", said[1]) if len(said) > 1 else []
    return float(after[0] if after else numbers[-1])


GSM8K = Kind(_read, {"sane": same_number, "published": _published})
