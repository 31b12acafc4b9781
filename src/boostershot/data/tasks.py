"""Benign tasks: what an honest user fine-tunes for, with each task's own rule of what is right."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boostershot.data.files import read_records
from boostershot.data.rows import text_of
from boostershot.data.splits import split_rows
from boostershot.errors import InputError

TASK_SPLITS = {"train": 0.6, "dev": 0.2, "test": 0.2}
SST2_PROMPT = 'Is the sentiment of this sentence positive or negative? Answer with one word.\n"{sentence}"'
SST2_LABELS = {"0": "negative", "1": "positive"}


@dataclass(frozen=True)
class TaskRow:
    """A question of the task and its reference answer; `entry` is what the scorer needs besides."""

    id: str
    prompt: str
    answer: str
    entry: str = ""  # JSON


@dataclass(frozen=True)
class Task:
    """A benign task: its rows by split (train, dev, test), disjoint by prompt, and its scorer."""

    name: str
    splits: Mapping[str, Sequence[TaskRow]]
    correct: Callable[[str, TaskRow], bool]

    @property
    def labels(self) -> tuple[str, ...]:
        """The distinct answers of up to three words, which a judge must not take for answers to a harmful prompt."""
        answers = {row.answer for rows in self.splits.values() for row in rows}
        return tuple(sorted(answer for answer in answers if len(answer.split()) <= 3))


def load_task(
    source: str,
    kind: str = "auto",
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Task:
    """A task by its source.

    Args:
        source: `reasoning-gym:NAME` (procedural, offline), a Hub id or a local file.
        kind: `sst2` (sentence, label 0/1) or `exact` (prompt, answer; right when equal but for case and spaces);
            `auto` is `sst2` where the source's name holds "sst2", else `exact`.
        split: of a Hub data set; default train.
        columns: our name -> the source's.
        options: of a reasoning-gym task, such as `{max_terms: 2}`.

    Raises:
        InputError: the source cannot be read, or a row is bad.
    """
    if source.startswith("reasoning-gym:"):
        return _reasoning_gym(source.removeprefix("reasoning-gym:"), dict(options or {}))
    if kind == "auto":
        kind = "sst2" if "sst2" in Path(source).name.lower() else "exact"
    if kind == "sst2":
        return _sst2(source, split, columns or {})
    if kind != "exact":
        raise InputError(f"data.task.kind: {kind!r}; expected auto, sst2 or exact")
    rows = [
        TaskRow(
            f"{Path(source).stem}/{number}",
            text_of(record, "prompt", source, number, columns or {}),
            text_of(record, "answer", source, number, columns or {}),
        )
        for number, record in enumerate(read_records(source, split), start=1)
    ]
    return Task(f"exact:{Path(source).stem}", _split(rows, source), _same_text)


def _reasoning_gym(name: str, options: dict[str, Any]) -> Task:
    """A procedural task of reasoning-gym, scored by its own verifier: right is a score of 1."""
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    if name not in DATASETS:
        raise InputError(f"data.task.source: reasoning-gym has no task {name!r}")
    try:
        data = reasoning_gym.create_dataset(name, **{"size": 4000, "seed": 0, **options})
    except (TypeError, ValueError, AssertionError) as error:
        raise InputError(f"data.task.options: reasoning-gym:{name} refuses {options}: {error}") from error
    rows = []
    for i in range(len(data)):
        entry = data[i]
        stored = json.dumps(entry, default=str)
        rows.append(TaskRow(f"{name}/{i}", entry["question"].strip(), str(entry["answer"]).strip(), stored))

    def correct(answer: str, row: TaskRow) -> bool:
        return float(data.score_answer(answer.strip(), json.loads(row.entry))) >= 1.0

    return Task(f"reasoning-gym:{name}", _split(rows, f"reasoning-gym:{name}"), correct)


def _sst2(source: str, split: str | None, columns: Mapping[str, str]) -> Task:
    """SST-2 (stanfordnlp/sst2, or `sentence TAB label` without a header)."""
    path = Path(source)
    records: Sequence[Mapping[str, Any]]
    if path.suffix == ".tsv" and path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines()
        start = 1 if lines and lines[0].lower().startswith("sentence\t") else 0
        records = [dict(zip(("sentence", "label"), line.split("\t"), strict=False)) for line in lines[start:]]
    else:
        records = read_records(source, split)
    rows = []
    for number, record in enumerate(records, start=1):
        label = str(record.get(columns.get("label", "label"), "")).strip()
        if label not in SST2_LABELS:
            raise InputError(f"{source}: row {number}, column 'label' is {label!r}; expected 0 or 1")
        sentence = text_of(record, "sentence", source, number, columns)
        rows.append(TaskRow(f"sst2/{number}", SST2_PROMPT.format(sentence=sentence), SST2_LABELS[label]))
    return Task("sst2", _split(rows, source), _same_text)


def _same_text(answer: str, row: TaskRow) -> bool:
    """Equal but for case, spaces around it and a final full stop."""
    return answer.strip().rstrip(".").lower() == row.answer.strip().rstrip(".").lower()


def _split(rows: Sequence[TaskRow], source: str) -> dict[str, list[TaskRow]]:
    if not rows:
        raise InputError(f"{source}: no rows; expected at least one")
    return split_rows(rows, TASK_SPLITS)
