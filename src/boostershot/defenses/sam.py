"""Sharpness-aware minimisation of the alignment loss (arXiv 2010.01412)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from boostershot.core.oracle import Oracle
from boostershot.core.step import Batch, Step
from boostershot.defenses.about import ALIGN, About, HyperParameter
from boostershot.defenses.defense import Cost, Defense, check_at_home
from boostershot.defenses.length import check_length, length
from boostershot.defenses.sft import SFT


@dataclass(frozen=True)
class SAM(Defense):
    """min f(w + rho * grad f / |grad f|), first order.

    Args:
        rho: length of the step uphill over all trainable weights together.
        rho_per_weight: the same as a root mean square per weight. Give one of the two.
        align: the defence whose step is taken at both points.

    Raises:
        ValueError: a value is negative or not finite, or not exactly one of the two is given.
    """

    rho: float | None = None
    rho_per_weight: float | None = None
    align: Defense = SFT()

    about = About(
        title="sharpness-aware minimisation (SAM)",
        source="arXiv:2010.01412 (ICLR 2021), Algorithm 1",
        equation="f(w + rho * unit(grad f(w)))",
        idea="The alignment loss is to be low in a whole neighbourhood of w, so that leaving w costs little of it.",
        follows="Algorithm 1 with p = 2, on the alignment loss, one step over all trainable weights and processes.",
        example={"rho_per_weight": 2e-5},
        hyper_parameters={
            "rho": HyperParameter(
                "length of the step uphill over all trainable weights; give this or rho_per_weight",
                "an absolute length, as Booster's alpha; far too large, f does not converge",
            ),
            "rho_per_weight": HyperParameter(
                "the same as a root mean square per weight; 1e-6 to 1e-4 is the range worth searching",
                "as for rho",
            ),
            "align": ALIGN,
        },
        notes="No paper of this field gives its settings. Its ball is around w, in the direction that hurts f most, "
        "which is not the attacker's.",
    )

    def __post_init__(self) -> None:
        check_length("sam", rho=self.rho, rho_per_weight=self.rho_per_weight)
        check_at_home("sam", self.align)

    @property
    def cost(self) -> Cost:
        """Two steps of `align`; the direction's gradient is gone when the second begins, its length in the weights."""
        align = self.align.cost
        if self._radius_is_zero:
            return align
        kept = sum(uses > 1 for uses in align.shared.values())  # copies of shared gradients, which are of w only
        return replace(align, own=align.passes_away + align.own, memory=max(align.memory, 1 + align.memory - kept))

    def reads(self) -> dict[str, int]:
        """What `align` reads."""
        return self.align.reads()

    def step(self, oracle: Oracle, batch: Batch) -> Step:
        """The step of `align` where its own gradient leads uphill."""
        here = self.align.step(oracle, batch)
        if self._radius_is_zero:
            return here
        loss, direction = here.loss, here.gradient.unit()
        del here
        with oracle.away():
            oracle.shift(direction, by=length(oracle, self.rho, self.rho_per_weight))
            del direction
            there = self.align.step(oracle, batch)
        return there.log(loss_at_home=loss)

    @property
    def _radius_is_zero(self) -> bool:
        return not (self.rho or self.rho_per_weight)
