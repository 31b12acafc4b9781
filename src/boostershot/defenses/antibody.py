"""Antibody, alignment stage: Booster's bracket with a weight in closed form, and refusal at the attacked point."""

from __future__ import annotations

from dataclasses import dataclass, replace

from boostershot.core.oracle import Oracle
from boostershot.core.step import Batch, Step
from boostershot.defenses.about import ALIGN, About, HyperParameter
from boostershot.defenses.attacked import attacked
from boostershot.defenses.defense import Cost, Defense, check, check_at_home, most
from boostershot.defenses.length import ALPHA, ALPHA_PER_WEIGHT, check_length, length
from boostershot.defenses.sft import SFT


@dataclass(frozen=True)
class Antibody(Defense):
    """min f(w) + lam_t * s(w) + lam_refuse * f(w'), s = h(w) - h(w'), w' = w - alpha * unit(g).

    lam_t = max(0, xi - dot(grad s, grad f) / |grad s|^2), at most `lam_max`: the least weight with which s falls at a
    rate of xi |grad s|^2 whatever f at w does; the term of lam_refuse is left out of it, as published. First order.

    Args:
        lam: a constant weight in place of lam_t; with lam_refuse 0 that is Booster.

    Raises:
        ValueError: a value is negative or not finite, or not exactly one of the two lengths is given.
    """

    xi: float = 0.1
    lam_max: float = 10.0
    lam: float | None = None
    lam_refuse: float = 1.0
    alpha: float | None = None
    alpha_per_weight: float | None = None
    align: Defense = SFT()

    about = About(
        title="Antibody (alignment stage)",
        source="arXiv:2603.00498 (ICLR 2026), alignment stage; hyper-parameters of its experiments not available here",
        equation="f(w) + lam_t * (h(w) - h(w')) + lam_refuse * f(w'), w' = w - alpha * unit(g), "
        "lam_t = min(lam_max, max(0, xi - dot(grad s, grad f) / |grad s|^2))",
        idea="The bracket is to fall at a set rate at every step whatever f does, with as little disturbance of f as "
        "that needs, and refusal is to survive the simulated attack.",
        follows="The alignment stage, first order, with dot(grad s, grad f) over all trainable weights. The cap is no "
        "part of the closed form; it and the defaults follow a port to another library (SafeTune) and its notes, for "
        "want of the paper's. The fine-tuning stage (weights on the user's rows) is not an alignment-stage defence.",
        example={"alpha_per_weight": 2e-5},
        hyper_parameters={
            "xi": HyperParameter(
                "rate at which the bracket must fall, in units of |grad s|^2",
                "0 only removes the conflict with f (a projection) and never pushes the bracket down",
            ),
            "lam_max": HyperParameter("cap on lam_t", "lam_t grows as 1 / |grad s|^2 where the bracket is flat"),
            "lam": HyperParameter("a constant weight in place of the closed form; null uses it", "as Booster's lam"),
            "lam_refuse": HyperParameter("weight of f at the attacked weights", "0 leaves one pass less"),
            "alpha": ALPHA,
            "alpha_per_weight": ALPHA_PER_WEIGHT,
            "align": ALIGN,
        },
        notes="The paper's gain includes its fine-tuning stage, which a provider of open weights does not have. No "
        "replication was known when this was written.",
    )

    def __post_init__(self) -> None:
        check("antibody", xi=self.xi, lam_max=self.lam_max, lam=self.lam, lam_refuse=self.lam_refuse)
        check_length("antibody", alpha=self.alpha, alpha_per_weight=self.alpha_per_weight)
        if self.lam_refuse:
            check_at_home("antibody", self.align)

    @property
    def cost(self) -> Cost:
        """h at w and w', f at w, and at w' where it counts."""
        align = self.align.cost
        if self._plain:
            return align
        bracket = Cost(1, {"harmful": 1}, memory=2).then(align)
        if not self.lam_refuse:
            return bracket
        # f at w' runs beside f at w, the bracket and the copy of w.
        return replace(bracket, own=bracket.own + align.passes_away, memory=3 + align.memory)

    def reads(self) -> dict[str, int]:
        """What `align` reads, and harmful rows."""
        return most(self.align.reads(), {} if self._plain else {"harmful": 1})

    def step(self, oracle: Oracle, batch: Batch) -> Step:
        """The objective at this step's lam_t, which is a constant to the gradient."""
        if self._plain:
            return self.align.step(oracle, batch)
        f = refusal = None
        with oracle.sharing(self.cost.shared):
            if self.lam_refuse:
                f = self.align.step(oracle, batch)  # first, so that an `align` which measures something meets w itself
            with attacked(oracle, batch, length(oracle, self.alpha, self.alpha_per_weight)) as h:
                norm = h.gradient.norm()
                h_moved = oracle.gradient(batch.need("harmful"))
                bracket = h - h_moved
                if self.lam_refuse:
                    refusal = self.lam_refuse * self.align.step(oracle, batch)
            f = f or self.align.step(oracle, batch)
        lam = self.weight(bracket, f)
        total = f + lam * bracket
        log = {}
        if refusal is not None:
            log["refusal_loss_moved"] = refusal.loss / self.lam_refuse
            total = refusal + total  # in this order: of a metric that both have, the one at w counts
        return total.log(
            harmful_loss=h.loss,
            harmful_loss_moved=h_moved.loss,
            harmful_loss_reduction=h.loss - h_moved.loss,
            harmful_gradient_norm=norm,
            lam=lam,
            **log,
        )

    @property
    def _plain(self) -> bool:
        """Does neither term count?"""
        lam = self.lam_max if self.lam is None else self.lam
        return not (lam or self.lam_refuse)

    def weight(self, bracket: Step, f: Step) -> float:
        """lam_t."""
        if self.lam is not None:
            return self.lam
        squared = bracket.gradient.norm() ** 2
        if squared == 0:
            return 0.0
        return min(self.lam_max, max(0.0, self.xi - bracket.gradient.dot(f.gradient) / squared))
