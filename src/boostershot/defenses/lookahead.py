"""Look-ahead: a high harmful loss after a simulated harmful step, MAML-style."""

from __future__ import annotations

from dataclasses import dataclass

from boostershot.core.oracle import Oracle
from boostershot.core.step import Batch, Step
from boostershot.defenses.about import ALIGN, About, HyperParameter
from boostershot.defenses.ascent import BOUND, bounded
from boostershot.defenses.attacked import INNER, STEPS, Inner, attacked, harmful_batches
from boostershot.defenses.defense import Cost, Defense, Regularizer, check, check_count
from boostershot.defenses.length import ALPHA, ALPHA_PER_WEIGHT, check_length, length
from boostershot.defenses.sft import SFT


@dataclass(frozen=True)
class Lookahead(Regularizer):
    """min f(w) - lam * min(h(w - alpha * unit(g)), bound), first order.

    Raises:
        ValueError: as for `Booster`, or the bound is negative.
    """

    lam: float = 1.0
    alpha: float | None = None
    alpha_per_weight: float | None = None
    bound: float | None = 5.0
    steps: int = 1
    inner: Inner = "same"
    align: Defense = SFT()

    about = About(
        title="one-step look-ahead (MAML-style)",
        source="first-order MAML (arXiv:1703.03400) with the sign of MLAC (arXiv:2211.14946); no paper of this field "
        "gives figures for it",
        equation="f(w) - lam * min(h(w - alpha * unit(g)), bound)",
        idea="The harmful loss is to be high where a harmful step leads; unlike Booster, h at w is left alone.",
        follows="Booster's Algorithm 1 without its h(w) term. The bound is this project's choice.",
        example={"lam": 1, "alpha_per_weight": 2e-5},
        hyper_parameters={
            "lam": HyperParameter("weight of the harmful loss after the step", "large values fight f before the bound"),
            "alpha": ALPHA,
            "alpha_per_weight": ALPHA_PER_WEIGHT,
            "bound": BOUND,
            "steps": STEPS,
            "inner": INNER,
            "align": ALIGN,
        },
        notes="A control: it raises h nearby, where Booster flattens it. With bound: null it is Booster less its "
        "grad h(w).",
    )

    def __post_init__(self) -> None:
        check("lookahead", lam=self.lam, bound=self.bound)
        check_length("lookahead", alpha=self.alpha, alpha_per_weight=self.alpha_per_weight)
        check_count("lookahead", steps=self.steps)

    @property
    def active(self) -> bool:
        """Is there a term?"""
        return self.lam > 0

    @property
    def term_cost(self) -> Cost:
        """h at w for the direction, further steps, and h where they lead."""
        return Cost(own=self.steps, shared={"harmful": 1}, memory=2)

    def term_reads(self) -> dict[str, int]:
        """Harmful rows."""
        return {"harmful": harmful_batches(self.steps, self.inner)}

    def term(self, oracle: Oracle, batch: Batch) -> Step:
        """-lam times the bounded harmful loss after the step."""
        alpha = length(oracle, self.alpha, self.alpha_per_weight)
        with attacked(oracle, batch, alpha, self.steps, self.inner) as h:
            h_moved = oracle.gradient(batch.need("harmful"))
        moved = h_moved.loss
        return ((-self.lam) * bounded(h_moved, self.bound)).log(
            harmful_loss=h.loss, harmful_loss_moved=moved, harmful_loss_reduction=h.loss - moved
        )
