"""Gradient ascent on harmful answers, the baseline that everyone asks for."""

from __future__ import annotations

from dataclasses import dataclass

from boostershot.core.oracle import Oracle
from boostershot.core.step import Batch, Step
from boostershot.defenses.about import ALIGN, About, HyperParameter
from boostershot.defenses.ascent import BOUND, bounded
from boostershot.defenses.defense import Cost, Defense, Regularizer, check
from boostershot.defenses.sft import SFT


@dataclass(frozen=True)
class GradientAscent(Regularizer):
    """min f(w) - lam * min(h(w), bound).

    Raises:
        ValueError: a value is negative or not finite.
    """

    lam: float = 0.1
    bound: float | None = 5.0
    align: Defense = SFT()

    about = About(
        title="gradient ascent (GradDiff)",
        source="gradient difference, a baseline of machine unlearning (arXiv:2401.06121), on harmful answers",
        equation="f(w) - lam * min(h(w), bound)",
        idea="Harmful answers are made unlikely.",
        follows="f takes the place of the retain loss; the bound is this project's choice.",
        hyper_parameters={
            "lam": HyperParameter("weight of the ascent", "large values break the model before the bound is reached"),
            "bound": BOUND,
            "align": ALIGN,
        },
        notes="A high h at w says nothing about how fast an attacker brings it down.",
    )

    def __post_init__(self) -> None:
        check("gradient_ascent", lam=self.lam, bound=self.bound)

    @property
    def active(self) -> bool:
        """Is there a term?"""
        return self.lam > 0

    @property
    def term_cost(self) -> Cost:
        """h at w."""
        return Cost(shared={"harmful": 1})

    def term_reads(self) -> dict[str, int]:
        """Harmful rows."""
        return {"harmful": 1}

    def term(self, oracle: Oracle, batch: Batch) -> Step:
        """-lam times the bounded harmful loss."""
        h = oracle.shared_gradient(batch, "harmful")
        loss = h.loss
        return ((-self.lam) * bounded(h, self.bound)).log(harmful_loss=loss)
