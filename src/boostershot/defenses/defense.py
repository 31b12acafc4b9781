"""What every defence is: hyper-parameters and one method."""

from __future__ import annotations

from typing import Protocol

from boostershot.core.oracle import Batch, Oracle, Step


class Defense(Protocol):
    """A frozen dataclass of hyper-parameters whose `step` mutates nothing that it does not restore bit for bit."""

    @property
    def passes(self) -> int:
        """Forward-backward passes over a batch in one step."""
        ...

    def roles(self) -> frozenset[str]:
        """The kinds of rows that a step reads: align, harmful, paired, general."""
        ...

    def step(self, oracle: Oracle, batch: Batch) -> Step:
        """The whole objective: its loss, its gradient and what to log."""
        ...
