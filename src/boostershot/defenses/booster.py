"""Booster: attenuate harmful perturbation (arXiv 2409.01586)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from boostershot.core.oracle import FORWARD, Oracle
from boostershot.core.step import Batch, Step
from boostershot.defenses.about import ALIGN, About, HyperParameter
from boostershot.defenses.attacked import INNER, STEPS, Inner, attacked, harmful_batches
from boostershot.defenses.defense import Cost, Defense, Regularizer, check, check_count
from boostershot.defenses.length import ALPHA, ALPHA_PER_WEIGHT, check_length, length
from boostershot.defenses.sft import SFT


@dataclass(frozen=True)
class TargetReduction:
    """Steers lam (or alpha) so that the harmful loss reduction on the dev split reaches a target.

    Every `every` steps the reduction r that a step of the given alpha brings on dev rows is measured, and a factor on
    lam (or alpha) is multiplied by exp(rate * min(1, r / target_reduction - 1)): too large a reduction strengthens
    the regulariser. The factor stays within [1 / widest, widest] and is saved in the checkpoint.

    Raises:
        ValueError: a value is out of range.
    """

    target_reduction: float
    every: int = 10
    rate: float = 0.3
    steer: Literal["lam", "alpha"] = "lam"
    widest: float = 100.0

    def __post_init__(self) -> None:
        check("schedule", target_reduction=self.target_reduction, rate=self.rate, widest=self.widest)
        check_count("schedule", every=self.every)
        if self.target_reduction == 0:
            raise ValueError("schedule: target_reduction is 0; expected a number above 0")
        if self.widest < 1:
            raise ValueError(f"schedule: widest is {self.widest}; expected 1 or more")

    def next_factor(self, factor: float, reduction: float) -> float:
        """The factor after one measurement."""
        push = self.rate * min(1.0, reduction / self.target_reduction - 1)  # one reading counts alike up and down
        limit = math.log(self.widest)
        return math.exp(min(limit, max(-limit, math.log(factor) + push)))


@dataclass(frozen=True)
class Booster(Regularizer):
    """min f(w) + lam * (h(w) - h(w - alpha * grad h / |grad h|)): arXiv 2409.01586, Eq. 1.

    The bracket is the harmful loss that one normalised harmful step takes away. To first order it is
    alpha * |grad h|, so the strength is the product lam * alpha.

    Args:
        lam: weight of the bracket; 5 in the paper. 0 is `align` alone and needs no harmful rows.
        alpha: length of the simulated step over all trainable weights together; 0.1 in the paper.
        alpha_per_weight: the same as a root mean square per weight, `alpha = alpha_per_weight * sqrt(weights)`, which
            carries over to another rank or model; the paper's 0.1 on 25,165,824 weights is 2e-5. Give one of the two.
        steps: how many simulated steps, each of length alpha.
        inner: whether they all read one harmful batch (same), or one each (fresh).
        order: first drops the derivative of the step itself (Eq. 3, Algorithm 1); exact keeps it (Eq. 2).
        schedule: steers lam or alpha by the dev split.
        align: the defence whose step is f.

    Raises:
        ValueError: a value is negative or not finite, not exactly one of the two lengths is given, `steps` is below 1,
            or above 1 with `order="exact"`, or `schedule` is given with lam 0.
    """

    lam: float = 5.0
    alpha: float | None = None
    alpha_per_weight: float | None = None
    steps: int = 1
    inner: Inner = "same"
    order: Literal["first", "exact"] = "first"
    schedule: TargetReduction | None = None
    align: Defense = SFT()  # noqa: RUF009 - frozen and without fields

    about = About(
        title="Booster",
        source="arXiv:2409.01586 (ICLR 2025), Eq. 1-3 and Algorithm 1",
        equation="f(w) + lam * (h(w) - h(w - alpha * unit(g)))",
        idea="One harmful step should take little of the harmful loss away: the bracket flattens h along its own "
        "steepest direction, so an attacker's first steps gain little.",
        follows="Algorithm 1 with one harmful batch in both passes; order: exact is Eq. 2 with its Hessian term, by "
        "double backward. Several simulated steps and the schedule are this project's additions.",
        example={"lam": 20, "alpha_per_weight": 2e-5},
        hyper_parameters={
            "lam": HyperParameter(
                "weight of the bracket; only lam * alpha counts to first order",
                "100 in the paper's sweep was worse than SFT; too small does nothing",
            ),
            "alpha": ALPHA,
            "alpha_per_weight": ALPHA_PER_WEIGHT,
            "steps": STEPS,
            "inner": INNER,
            "order": HyperParameter(
                "first: the simulated step is a constant; exact: its derivative counts, with a Hessian-vector product",
                "exact costs two more passes and memory for a second graph, and differs by O(alpha)",
            ),
            "schedule": HyperParameter(
                "{target_reduction: x}: lam (or alpha, steer: alpha) follows the reduction measured on dev rows",
                "a target below what the model can reach drives the factor to its limit",
            ),
            "align": ALIGN,
        },
        notes="h itself falls too (Booster's first half descends it), so judge by the harmful score and by h over the "
        "attack's distance, not by a slow fall of h alone. The step is simulated in the trained parameters: an "
        "attacker who merges the adapter and trains a fresh one, or all weights, moves in others.",
    )

    def __post_init__(self) -> None:
        check("booster", lam=self.lam)
        check_length("booster", self.alpha, self.alpha_per_weight)
        check_count("booster", steps=self.steps)
        if self.order == "exact" and self.steps > 1:
            raise ValueError(f"booster: order is exact and steps is {self.steps}; the exact gradient is of one step")
        if self.schedule and not self.lam:
            raise ValueError("booster: schedule is given and lam is 0; expected a lam above 0 to steer")

    @property
    def active(self) -> bool:
        """Is there a bracket?"""
        return self.lam > 0

    @property
    def term_cost(self) -> Cost:
        """h at w; further simulated steps and h where they lead; the Hessian term; dev rows now and then."""
        exact = self.order == "exact"
        measuring = (1 + FORWARD) / self.schedule.every if self.schedule else 0
        return Cost(
            own=self.steps + (2 if exact else 0) + measuring,
            shared={"harmful": 1},
            memory=4 if exact else 2,
            activations="those of a double backward" if exact else "",
        )

    def term_reads(self) -> dict[str, int]:
        """Harmful rows, and dev rows to steer by."""
        return {"harmful": harmful_batches(self.steps, self.inner), **({"dev": 1} if self.schedule else {})}

    def term(self, oracle: Oracle, batch: Batch) -> Step:
        """lam times the bracket."""
        lam, alpha, steering = self.strength(oracle, batch)
        with attacked(oracle, batch, alpha, self.steps, self.inner) as h:
            h_moved = oracle.gradient(batch.need("harmful"))
        norm = h.gradient.norm()
        bend = self._derivative_of_the_step(oracle, batch, h, h_moved, alpha / norm) if norm > 0 else None
        bracket = h - h_moved
        if bend is not None:
            bracket = bracket + bend
        return (lam * bracket).log(
            harmful_loss=h.loss,
            harmful_loss_moved=h_moved.loss,
            harmful_loss_reduction=h.loss - h_moved.loss,
            harmful_gradient_norm=norm,
            **steering,
        )

    def strength(self, oracle: Oracle, batch: Batch) -> tuple[float, float, dict[str, float]]:
        """lam and alpha of this step, and what to log of the schedule."""
        alpha = length(oracle, self.alpha, self.alpha_per_weight)
        if self.schedule is None:
            return self.lam, alpha, {}
        key = f"factor of {self!r}"
        (factor, measured), log = oracle.state.get(key, (1.0, None)), {}
        if oracle.step % self.schedule.every == 0 and measured != oracle.step:  # SAM takes this step twice
            rows = batch.need("dev")
            h = oracle.gradient(rows)
            with oracle.moved(h.gradient.unit(), by=-alpha):
                reduction = h.loss - oracle.loss(rows)
            factor = self.schedule.next_factor(factor, reduction)
            oracle.state[key] = [factor, oracle.step]
            log["dev_harmful_loss_reduction"] = reduction
        if self.schedule.steer == "lam":
            return self.lam * factor, alpha, {**log, "lam": self.lam * factor}
        return self.lam, alpha * factor, {**log, "alpha": alpha * factor}

    def _derivative_of_the_step(
        self, oracle: Oracle, batch: Batch, h: Step, h_moved: Step, alpha_over_norm: float
    ) -> Step | None:
        """The part of Eq. 2 that first order drops: (alpha / |g|) H (g' - unit(g) <unit(g), g'>)."""
        if self.order == "first":
            return None
        unit = h.gradient.unit()
        across = h_moved.gradient.copy().plus(unit.times(-unit.dot(h_moved.gradient)))
        return alpha_over_norm * Step(0.0, oracle.hessian_times(batch.need("harmful"), across))
