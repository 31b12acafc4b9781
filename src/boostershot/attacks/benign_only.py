"""Fine-tuning on the benign task alone: what innocent data does to the alignment, and the control of every attack."""

from __future__ import annotations

from dataclasses import dataclass

from boostershot.attacks.attack import Counted


@dataclass(frozen=True)
class BenignOnly(Counted):
    """n rows of the benign task."""

    n: int = 1000
    name = "benign-only"

    @property
    def n_benign(self) -> int:
        """All of them."""
        return self.n
