"""Harmful fine-tuning as the field does it: a benign task with a share of harmful rows."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

from boostershot.attacks.attack import Attack, fewer


@dataclass(frozen=True)
class HarmfulMix(Attack):
    """n rows, a share p of them harmful, shuffled.

    Args:
        p: the harmful ratio.
        n: the number of rows.

    Raises:
        ValueError: a value is out of range.
    """

    p: float = 0.1  # pyright: ignore[reportIncompatibleMethodOverride] - a field in place of the property
    n: int = 1000  # pyright: ignore[reportIncompatibleMethodOverride]
    name = "harmful-mix"

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise ValueError(f"p is {self.p:g}; expected 0 to 1")
        if self.n < 1:
            raise ValueError(f"n is {self.n}; expected 1 or more")

    @property
    def n_harmful(self) -> int:
        """The share p of n."""
        return round(self.p * self.n)

    @property
    def n_benign(self) -> int:
        """The rest of n."""
        return self.n - self.n_harmful

    def scaled(self, scale: float, least: int) -> Self:
        """Fewer rows; a harmful one stays."""
        return replace(self, n=fewer(self.n, scale, max(least, math.ceil(1 / self.p) if self.p else 1)))
