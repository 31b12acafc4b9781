"""What a benign task is: rows by split, and who tells whether an answer is right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Variant = Literal["sane", "published"]
VARIANTS: tuple[Variant, ...] = ("sane", "published")
INPUT = "\n\n### Input:\n"  # in Stanford Alpaca's layout, what stands between an instruction and its input


@dataclass(frozen=True)
class TaskRow:
    """A question of the task and its reference answer; `entry` is what the scorer needs besides."""

    id: str
    prompt: str
    answer: str
    entry: str = ""  # JSON


Correct = Callable[[str, TaskRow], bool]
Score = Callable[[str, TaskRow], float]
Read = Callable[[Sequence[Mapping[str, Any]], str, Mapping[str, str], Variant], list[TaskRow]]


@dataclass(frozen=True)
class Kind:
    """How rows of one kind of task are read from records, and how answers are scored, by variant.

    A kind without `correct` is free text, and one without a `published` rule has none of its own.
    """

    read: Read
    correct: Mapping[Variant, Correct] = field(default_factory=dict)
    variants: tuple[Variant, ...] = VARIANTS


@dataclass(frozen=True)
class Task:
    """A benign task: its rows by split (train, dev, test), disjoint by prompt, and its scorer.

    `correct` is None where no rule can tell (AlpacaEval's win rate needs a judge model): such a task has no accuracy.
    `score`, of tasks that have one, grades an answer from 0 to 1 (right).
    """

    name: str
    splits: Mapping[str, Sequence[TaskRow]]
    correct: Correct | None
    score: Score | None = None

    @property
    def scored_by(self) -> Literal["rule", "likelihood"]:
        """`rule`: answers are right or wrong; `likelihood`: all there is is log p(reference answer | prompt)."""
        return "likelihood" if self.correct is None else "rule"

    @property
    def labels(self) -> tuple[str, ...]:
        """The distinct answers of up to three words, which a judge must not take for answers to a harmful prompt."""
        answers = {row.answer for rows in self.splits.values() for row in rows}
        return tuple(sorted(answer for answer in answers if len(answer.split()) <= 3))
