"""AlpacaEval, Alpaca and Dolly: instructions with a reference answer, which no rule can compare with another answer.

The published wording of Alpaca and Dolly is that of the layouts with which their own models were trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from boostershot.data.rows import text_of
from boostershot.data.tasks.task import INPUT, Kind, TaskRow, Variant


def _alpaca_eval(
    records: Sequence[Mapping[str, Any]], where: str, columns: Mapping[str, str], variant: Variant
) -> list[TaskRow]:
    """tatsu-lab/alpaca_eval: instruction, output (of the reference model), generator, dataset."""
    names = {"prompt": "instruction", "answer": "output", **columns}
    return _rows(records, where, names, "alpaca_eval", None, "")


def _alpaca(
    records: Sequence[Mapping[str, Any]], where: str, columns: Mapping[str, str], variant: Variant
) -> list[TaskRow]:
    """tatsu-lab/alpaca: instruction, input (may be empty), output, text."""
    names = {"prompt": "instruction", "answer": "output", **columns}
    return _rows(records, where, names, "alpaca", "input", INPUT if variant == "published" else "\n\n")


def _dolly(
    records: Sequence[Mapping[str, Any]], where: str, columns: Mapping[str, str], variant: Variant
) -> list[TaskRow]:
    """databricks/databricks-dolly-15k: instruction, context (may be empty), response, category."""
    names = {"prompt": "instruction", "answer": "response", **columns}
    return _rows(records, where, names, "dolly", "context", "\n\nInput:\n" if variant == "published" else "\n\n")


def _rows(
    records: Sequence[Mapping[str, Any]], where: str, names: Mapping[str, str], kind: str, beside: str | None, mark: str
) -> list[TaskRow]:
    """The instruction, and after `mark` the text of the column `beside` where there is any.

    Rows with an empty answer are left out: Alpaca has 28 of them.
    """
    rows = []
    for number, record in enumerate(records, start=1):
        if record.get(names["answer"]) == "":
            continue
        prompt = text_of(record, "prompt", where, number, names)
        given = record.get(beside) if beside else None
        if isinstance(given, str) and given.strip():
            prompt += f"{mark}{given.strip()}"
        rows.append(TaskRow(f"{kind}/{number}", prompt, text_of(record, "answer", where, number, names)))
    return rows


ALPACA_EVAL = Kind(_alpaca_eval)
ALPACA = Kind(_alpaca)
DOLLY = Kind(_dolly)
