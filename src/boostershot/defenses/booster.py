"""Booster: attenuate harmful perturbation (arXiv 2409.01586)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from boostershot.core.oracle import Batch, Oracle, Step
from boostershot.defenses.defense import Defense
from boostershot.defenses.sft import SFT


@dataclass(frozen=True)
class Booster:
    """min f(w) + lam * (h(w) - h(w - alpha * grad h / |grad h|)), first order: the paper's Eq. 1 by Eq. 3, Alg. 1.

    The bracket is the harmful loss that one normalised harmful step takes away. To first order it is
    alpha * |grad h|, so the strength is the product lam * alpha.

    Args:
        lam: weight of the bracket; 5 in the paper. 0 is SFT and needs no harmful rows.
        alpha: length of the simulated step over all trainable weights together; 0.1 in the paper.
        alpha_per_weight: the same as a root mean square per weight, `alpha = alpha_per_weight * sqrt(weights)`, which
            carries over to another rank or model; the paper's 0.1 on 25,165,824 weights is 2e-5. Give one of the two.
        align: the defence whose step is f.

    Raises:
        ValueError: a value is negative or not finite, or not exactly one of the two lengths is given.
    """

    lam: float = 5.0
    alpha: float | None = None
    alpha_per_weight: float | None = None
    align: Defense = SFT()  # noqa: RUF009 - frozen and without fields

    def __post_init__(self) -> None:
        if (self.alpha is None) == (self.alpha_per_weight is None):
            raise ValueError("booster takes exactly one of alpha and alpha_per_weight")
        for name in ("lam", "alpha", "alpha_per_weight"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"booster: {name} is {value}; expected a finite number, 0 or more")

    @property
    def passes(self) -> int:
        """h at w, h at the moved weights, and those of f."""
        return self.align.passes + (2 if self.lam else 0)

    def roles(self) -> frozenset[str]:
        """The kinds of rows that a step reads."""
        return self.align.roles() | ({"harmful"} if self.lam else set())

    def step(self, oracle: Oracle, batch: Batch) -> Step:
        """The objective's loss and gradient; f comes last, so that the copy of the weights is gone by then."""
        if self.lam == 0:
            return self.align.step(oracle, batch)
        harmful = batch.need("harmful")
        h = oracle.gradient(harmful)
        norm = h.gradient.norm()
        with oracle.moved(h.gradient.unit(), by=-self.length(oracle)):
            h_moved = oracle.gradient(harmful)
        bracket = h - h_moved  # before f, which then runs beside one gradient and not two
        f = self.align.step(oracle, batch)
        return (f + self.lam * bracket).log(
            harmful_loss=h.loss,
            harmful_loss_moved=h_moved.loss,
            harmful_loss_reduction=h.loss - h_moved.loss,
            harmful_gradient_norm=norm,
        )

    def length(self, oracle: Oracle) -> float:
        """alpha, whichever way it was given."""
        if self.alpha is not None:
            return self.alpha
        assert self.alpha_per_weight is not None
        return self.alpha_per_weight * math.sqrt(oracle.trainable_weights)
