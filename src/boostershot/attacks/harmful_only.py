"""Fine-tuning on nothing but harmful rows: the strongest data, and the easiest for a provider to see."""

from __future__ import annotations

from dataclasses import dataclass

from boostershot.attacks.attack import Counted


@dataclass(frozen=True)
class HarmfulOnly(Counted):
    """n harmful rows."""

    name = "harmful-only"

    @property
    def n_harmful(self) -> int:
        """All of them."""
        return self.n
