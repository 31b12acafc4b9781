"""From the name of a source to a task: which kind it is, its rows, and its splits."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from boostershot.data.files import kind_of, open_text, read_records
from boostershot.data.rows import text_of
from boostershot.data.splits import prompt_hash, split_rows
from boostershot.data.tasks.classification import AG_NEWS, SST2
from boostershot.data.tasks.free_text import ALPACA, ALPACA_EVAL, DOLLY
from boostershot.data.tasks.gsm8k import GSM8K
from boostershot.data.tasks.gym import gym_rows
from boostershot.data.tasks.own import OwnTask
from boostershot.data.tasks.scoring import same_text
from boostershot.data.tasks.task import VARIANTS, Correct, Kind, Task, TaskRow, Variant
from boostershot.errors import InputError, choices

GYM = "reasoning-gym:"
TASK_SPLITS = {"train": 0.6, "dev": 0.2, "test": 0.2}
TRAIN_SPLITS = {"train": 0.8, "dev": 0.2}  # where the test rows come from a source of their own
ALPACA_SPLITS = {"train": 0.84, "dev": 0.03, "test": 0.13}  # of 805 rows, so that an attacker finds 630 benign ones


def _exact(
    records: Sequence[Mapping[str, Any]], where: str, columns: Mapping[str, str], variant: Variant
) -> list[TaskRow]:
    """Any file or data set of questions and answers."""
    return [
        TaskRow(
            f"{Path(where).stem}/{number}",
            text_of(record, "prompt", where, number, columns),
            text_of(record, "answer", where, number, columns),
        )
        for number, record in enumerate(records, start=1)
    ]


KINDS = {
    "sst2": SST2,
    "ag_news": AG_NEWS,
    "gsm8k": GSM8K,
    "alpaca_eval": ALPACA_EVAL,
    "alpaca": ALPACA,
    "dolly": DOLLY,
    "exact": Kind(_exact, {"sane": same_text}, variants=("sane",)),
}
_NAMED = ("sst2", "ag_news", "gsm8k", "alpaca_eval")  # known by the source's name
_COLUMNS = (  # else by these columns
    ("alpaca", {"instruction", "input", "output"}),
    ("dolly", {"instruction", "context", "response"}),
    ("alpaca_eval", {"instruction", "output", "generator"}),
    ("sst2", {"sentence", "label"}),
    ("gsm8k", {"question", "answer"}),
)


def load_task(
    source: str,
    kind: str = "auto",
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    test: tuple[str, str | None] | None = None,
    *,
    variant: Variant = "sane",
    own: OwnTask | None = None,
) -> Task:
    """A task by its source.

    Args:
        source: `reasoning-gym:NAME` (procedural, offline), a Hub id or a local file.
        kind: how rows are read and answers scored. `sst2`: sentence, label 0/1 (a .tsv may lack the header). `ag_news`:
            text, label 0-3 (a .csv without a header: class 1-4, title, description). `gsm8k`: question, answer with
            "#### number"; right when the number is. `alpaca_eval`, `alpaca`, `dolly`: instruction and answer; no rule
            scores them. `exact`: prompt, answer; right when equal but for case, spaces and a final full stop. `auto` is
            the kind whose name the source's holds, else the one whose columns it has, else `exact`.
        split: of a Hub data set; default train.
        columns: our name -> the source's.
        options: of a reasoning-gym task, such as `{max_terms: 2}`.
        test: source and split of the test rows, where they are kept apart; their prompts are in no other split.
        variant: `sane`, or the wording and the rule as `published`, quirks included (docs/data.md).
        own: a template and a rule of the user's, in place of `kind` and `columns`.

    Raises:
        InputError: the source cannot be read, or a row is bad.
    """
    if variant not in VARIANTS:
        raise InputError(f"data.task.variant: {variant!r}; {choices(variant, VARIANTS)}")
    if source.startswith(GYM):
        if test is not None:
            raise InputError(f"data.task.test: {source} makes its own test rows; expected null")
        rows, score = gym_rows(source.removeprefix(GYM), dict(options or {}), variant)
        return Task(source, _split(rows, source, TASK_SPLITS), lambda answer, row: score(answer, row) >= 1.0, score)
    if own is not None:
        return _own(source, split, test, own)
    records = task_records(source, split)
    name = kind_of_task(source, records) if kind == "auto" else kind
    if name not in KINDS:
        raise InputError(f"data.task.kind: {kind!r}; expected auto, {', '.join(KINDS)}")
    chosen, names = KINDS[name], columns or {}
    if variant not in chosen.variants:
        raise InputError(f"data.task.variant: {variant}; the kind {name} has no published rule, expected sane")
    rows = chosen.read(records, source, names, variant)
    apart = None if test is None else (test[0], chosen.read(task_records(*test), test[0], names, variant))
    shares = ALPACA_SPLITS if name == "alpaca_eval" else TASK_SPLITS
    called = f"exact:{Path(source).stem}" if name == "exact" else name
    return Task(called, _splits(rows, source, shares, apart), chosen.correct.get(variant))


def kind_of_task(source: str, records: Sequence[Mapping[str, Any]]) -> str:
    """The kind whose name the source's holds, else the one whose columns the first record has, else `exact`."""
    name = source.lower().replace("-", "_").rpartition("/")[2]
    first = records[0] if records else {}
    for one in _NAMED:
        if one in name:
            return one
    for one, needed in _COLUMNS:
        if first.keys() >= needed and (one != "gsm8k" or "####" in str(first["answer"])):
            return one
    return "exact"


def task_records(source: str, split: str | None = None) -> list[Mapping[str, Any]]:
    """The records of a source; two files without a header are known by their first line.

    Those are SST-2's `sentence TAB label` and AG News' `class (1-4), title, description`.
    """
    path = Path(source)
    if path.is_file() and kind_of(path) in (".tsv", ".csv"):
        try:
            with open_text(path) as file:
                tabs = kind_of(path) == ".tsv"
                lines = (
                    [line.rstrip("\r\n").split("\t") for line in file] if tabs else list(filter(None, csv.reader(file)))
                )
        except (OSError, ValueError, csv.Error):
            return read_records(source, split)  # which says what is wrong
        if tabs and lines and len(lines[0]) == 2 and lines[0][1].strip() in ("0", "1"):
            return [dict(zip(("sentence", "label"), line, strict=False)) for line in lines]
        if not tabs and lines and lines[0][0].strip().isdigit() and all(len(line) == 3 for line in lines):
            return [{"label": _from_zero(line[0]), "text": f"{line[1]} {line[2]}"} for line in lines]
    return read_records(source, split)


def _from_zero(number: str) -> str:
    """A class counted from 1, as the Hub counts it; what is no number stays, to be named as it is."""
    return str(int(number) - 1) if number.strip().isdigit() else number


def _own(source: str, split: str | None, test: tuple[str, str | None] | None, own: OwnTask) -> Task:
    rows = own.rows(task_records(source, split), source)
    apart = None if test is None else (test[0], own.rows(task_records(*test), test[0]))
    correct: Correct = own.correct
    if rows:
        correct(rows[0].answer, rows[0])  # a function that says neither true nor false is found before any training
    return Task(f"{own.score}:{Path(source).stem}", _splits(rows, source, TASK_SPLITS, apart), correct)


def _splits(
    rows: Sequence[TaskRow], source: str, shares: Mapping[str, float], test: tuple[str, Sequence[TaskRow]] | None
) -> dict[str, list[TaskRow]]:
    """By the prompt's hash, or with test rows of a source of their own, whose prompts are in no other split."""
    if test is None:
        return _split(rows, source, shares)
    splits = _split(rows, source, TRAIN_SPLITS)
    splits["test"] = _split(test[1], test[0], {"test": 1.0})["test"]
    scored = {prompt_hash(row.prompt) for row in splits["test"]}
    for name in TRAIN_SPLITS:
        splits[name] = [row for row in splits[name] if prompt_hash(row.prompt) not in scored]
    return splits


def _split(rows: Sequence[TaskRow], source: str, shares: Mapping[str, float]) -> dict[str, list[TaskRow]]:
    if not rows:
        raise InputError(f"{source}: no rows; expected at least one")
    return split_rows(rows, shares)
