"""Harmful fine-tuning as the field does it: a benign task with a share of harmful rows."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from boostershot.errors import InputError


@dataclass(frozen=True)
class AttackRow:
    """One row of the attacker's data."""

    id: str
    prompt: str
    completion: str
    harmful: bool


@dataclass(frozen=True)
class HarmfulMix:
    """n rows, a share p of them harmful, shuffled. p = 0 is benign-only, p = 1 harmful-only.

    Args:
        p: the harmful ratio.
        n: the number of rows.
        adapter: `continue` trains on what is there (the immunised adapter, or all weights if it has none), `fresh`
            merges it and trains a new LoRA adapter, `full` merges it and trains all weights.
    """

    p: float = 0.1
    n: int = 1000
    adapter: str = "continue"

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise ValueError(f"harmful-mix: p is {self.p}; expected 0 to 1")
        if self.n < 1:
            raise ValueError(f"harmful-mix: n is {self.n}; expected 1 or more")
        if self.adapter not in ("continue", "fresh", "full"):
            raise ValueError(f"harmful-mix: adapter is {self.adapter!r}; expected continue, fresh or full")

    @property
    def n_harmful(self) -> int:
        """How many of the n rows are harmful."""
        return round(self.p * self.n)

    def rows(self, dataset: Iterable[Mapping[str, Any]], seed: int) -> list[AttackRow]:
        """The attacker's rows, drawn without repetition.

        Args:
            dataset: records with `id, prompt, completion` and `harmful` (bool).
            seed: of the draw and the order.

        Raises:
            InputError: there are too few rows of a kind.
        """
        pool = [AttackRow(str(row["id"]), row["prompt"], row["completion"], bool(row["harmful"])) for row in dataset]
        draw = random.Random(f"harmful-mix/{seed}")
        picked: list[AttackRow] = []
        for kind, count in ((True, self.n_harmful), (False, self.n - self.n_harmful)):
            have = [row for row in pool if row.harmful is kind]
            if len(have) < count:
                word = "harmful" if kind else "benign"
                raise InputError(
                    f"harmful-mix: p={self.p} of n={self.n} needs {count} {word} rows; the data has {len(have)}"
                )
            picked += draw.sample(have, count)
        draw.shuffle(picked)
        return picked
