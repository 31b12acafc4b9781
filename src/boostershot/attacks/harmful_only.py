"""Fine-tuning on nothing but harmful rows: the strongest data, and the easiest for a provider to see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from boostershot.attacks.attack import Attack, AttackRow, Phase, draw, fewer


@dataclass(frozen=True)
class HarmfulOnly(Attack):
    """n harmful rows.

    Args:
        n: the number of rows.

    Raises:
        ValueError: n is less than 1.
    """

    n: int = 100  # pyright: ignore[reportIncompatibleMethodOverride] - a field in place of the property
    name = "harmful-only"

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"n is {self.n}; expected 1 or more")

    @property
    def n_harmful(self) -> int:
        """All of them."""
        return self.n

    def phases(self, pool: Sequence[AttackRow], seed: int) -> list[Phase]:
        """One."""
        return [Phase(draw(pool, self.n, 0, seed, self.name))]

    def scaled(self, scale: float, least: int) -> Self:
        """Fewer rows."""
        return replace(self, n=fewer(self.n, scale, least))
