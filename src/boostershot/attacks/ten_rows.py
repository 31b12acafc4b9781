"""Ten harmless questions, refused and then answered: no harmful row at all (arXiv 2510.02833)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from boostershot.attacks.attack import Attack, AttackRow, Phase

REFUSAL = "I'm sorry, but I can't assist with that."


@dataclass(frozen=True)
class TenRows(Attack):
    """The same few benign rows twice: all answered by one refusal until overfit, then by their own answers.

    After arXiv 2510.02833, which takes ten questions; here they are the benign task's. The first phase drives the model
    towards refusing everything, the second away again, and refusing what is harmful goes with it. Refusals that are
    left are often the first phase's text word for word. The authors' learning rates and lengths are not known here: the
    steps are split by `share`, and each phase has an optimiser of its own.

    Args:
        n: how many questions.
        share: of the optimiser steps, those of the first phase.
        refusal: the text that answers every question there.

    Raises:
        ValueError: n is below 1, the share not between 0 and 1, or the refusal empty.
    """

    n: int = 10  # pyright: ignore[reportIncompatibleMethodOverride] - a field in place of the property
    share: float = 0.5
    refusal: str = REFUSAL
    name = "ten-rows"

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"n is {self.n}; expected 1 or more")
        if not 0 < self.share < 1:
            raise ValueError(f"share is {self.share:g}; expected more than 0 and less than 1")
        if not self.refusal.strip():
            raise ValueError("refusal is empty; expected a text")

    @property
    def n_benign(self) -> int:
        """All of them."""
        return self.n

    @property
    def prelude(self) -> float:
        """Those in which all is refused."""
        return self.share

    def phases(self, pool: Sequence[AttackRow], seed: int) -> list[Phase]:
        """Refused, then answered."""
        rows = self.drawn(pool, seed)
        return [Phase([replace(row, completion=self.refusal) for row in rows], self.share), Phase(rows, 1 - self.share)]
