"""Fine-tuning on the benign task alone: what innocent data does to the alignment, and the control of every attack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from boostershot.attacks.attack import Attack, AttackRow, Phase, draw, fewer


@dataclass(frozen=True)
class BenignOnly(Attack):
    """n rows of the benign task.

    Args:
        n: the number of rows.

    Raises:
        ValueError: n is less than 1.
    """

    n: int = 1000  # pyright: ignore[reportIncompatibleMethodOverride] - a field in place of the property
    name = "benign-only"

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"n is {self.n}; expected 1 or more")

    @property
    def n_benign(self) -> int:
        """All of them."""
        return self.n

    def phases(self, pool: Sequence[AttackRow], seed: int) -> list[Phase]:
        """One."""
        return [Phase(draw(pool, 0, self.n, seed, self.name))]

    def scaled(self, scale: float, least: int) -> Self:
        """Fewer rows."""
        return replace(self, n=fewer(self.n, scale, least))
