"""The utility anchor: a term on general rows that keeps a model useful while it is attacked. Our own."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:  # a recipe's attacks are read without torch
    from torch import Tensor

    from boostershot.core.batch import Rows
    from boostershot.core.oracle import Oracle
    from boostershot.core.step import Step

T = TypeVar("T")


@dataclass(frozen=True)
class Anchor:
    """h + mu * b, b the mean loss of the answers of general rows: what decides defences that let a model collapse.

    A defence whose model breaks once it is fine-tuned scores as safe, because it answers nothing. An attacker who
    wants a useful model adds this term, which costs a pass a step (and a forward with `kl`).

    Args:
        mu: the weight of b.
        kl: b is KL(released | attacked) at the answers' tokens in place of their loss; the released model is the one
            that the attacker was given.
        n: how many general rows; a step reads as many as its batch has.

    Raises:
        ValueError: mu is not a number above 0, or n is below 1.
    """

    mu: float = 1.0
    kl: bool = False
    n: int = 64

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mu) and self.mu > 0):
            raise ValueError(f"mu is {self.mu}; expected a finite number above 0")
        if self.n < 1:
            raise ValueError(f"n is {self.n}; expected 1 or more")

    @property
    def passes(self) -> float:
        """What a step costs: a pass, and with `kl` the released model's forward, a third of one."""
        return 1 + 1 / 3 if self.kl else 1

    def term(self, oracle: Oracle, rows: Rows, released: Mapping[str, Tensor]) -> Step:
        """mu * b.

        Args:
            oracle: at the weights of this step.
            rows: general rows.
            released: the trained parameters as the attacker found them, by name; read where `kl` is set.
        """
        from boostershot.core.losses import divergence_from, log_probabilities

        if self.kl:
            with oracle.at(released):
                reference = oracle.features(rows, log_probabilities)
            b = oracle.gradient(rows, divergence_from(reference))
        else:
            b = oracle.gradient(rows)
        loss = b.loss
        return (self.mu * b).log(anchor_loss=loss)


def rows_of_step(rows: Sequence[T], batch: int, step: int, seed: int) -> list[T]:
    """The rows of a step, each pass over all of them in one shuffled order; all of them where a batch holds more."""
    order = list(range(len(rows)))
    random.Random(f"anchor/{seed}").shuffle(order)
    count = min(batch, len(rows))
    return [rows[order[(step * count + i) % len(rows)]] for i in range(count)]
