"""Supervised fine-tuning on alignment data: the baseline, and the f of every other defence."""

from __future__ import annotations

from dataclasses import dataclass

from boostershot.core.oracle import Batch, Oracle, Step


@dataclass(frozen=True)
class SFT:
    """min f(w): the mean next-token loss of the safe answers to harmful prompts."""

    @property
    def passes(self) -> int:
        """f at w."""
        return 1

    def roles(self) -> frozenset[str]:
        """The kinds of rows that a step reads."""
        return frozenset({"align"})

    def step(self, oracle: Oracle, batch: Batch) -> Step:
        """f and its gradient."""
        f = oracle.gradient(batch.need("align"))
        return f.log(alignment_loss=f.loss)
