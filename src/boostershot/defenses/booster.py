"""Booster: attenuate harmful perturbation (arXiv 2409.01586)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from boostershot.core.oracle import FORWARD, Oracle
from boostershot.core.step import Batch, Step
from boostershot.core.vector import Vector
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
        every: an approximation: the bracket counts in each `every`-th step, with `every` times its weight.
        harmful_share: an approximation: the part of the rows of a harmful batch that is read.
        reuse: an approximation: g is computed for each `reuse`-th bracket; in those between, the kept one stands for
            grad h(w), as the direction of the simulated step and in the bracket's gradient.
        align: the defence whose step is f.

    Raises:
        ValueError: a value is out of range, not exactly one of the two lengths is given, `steps` is above 1 with
            `order="exact"`, `schedule` is given with lam 0 or `every` above 1, or `reuse` is above 1 with several steps
            or `order="exact"`.
    """

    lam: float = 5.0
    alpha: float | None = None
    alpha_per_weight: float | None = None
    steps: int = 1
    inner: Inner = "same"
    order: Literal["first", "exact"] = "first"
    schedule: TargetReduction | None = None
    every: int = 1
    harmful_share: float = 1.0
    reuse: int = 1
    align: Defense = SFT()

    about = About(
        title="Booster",
        source="arXiv:2409.01586 (ICLR 2025), Eq. 1-3 and Algorithm 1",
        equation="f(w) + lam * (h(w) - h(w - alpha * unit(g)))",
        idea="One harmful step should take little of the harmful loss away: the bracket flattens h along its own "
        "steepest direction, so an attacker's first steps gain little.",
        follows="Algorithm 1 with one harmful batch in both passes; order: exact is Eq. 2 with its Hessian term, by "
        "double backward. Several simulated steps, the schedule and the approximations (every, harmful_share, reuse) "
        "are this project's additions.",
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
            "every": HyperParameter(
                "approximation: the bracket counts in each every-th step only, there with every * lam, so that its "
                "mean over steps is lam's; the other steps are align's alone. 1 + 2 / every passes on average",
                "every * lam meets max_grad_norm in one step: where that makes the gradient longer than it, clipping "
                "takes part of the bracket back, and of f in that step; large values make the training swing",
            ),
            "harmful_share": HyperParameter(
                "approximation: the part of the step's harmful rows that is read: the first ones, rounded up to whole "
                "rows. 1 + 2 * harmful_share passes",
                "few rows give a noisy direction. An epoch reads that part of all harmful rows only; rows have another "
                "order in each, so all are read in time",
            ),
            "reuse": HyperParameter(
                "approximation: g is computed for each reuse-th bracket and kept; between, it stands for grad h(w) in "
                "the bracket and as the simulated step's direction. 2 + 1 / reuse passes, and one tensor that stays",
                "w moves on and the rows change, so that the bracket's two gradients no longer cancel. Between, the "
                "loss counts h as it was last measured, and no h at w is logged",
            ),
            "align": ALIGN,
        },
        notes="h at w rises less than under SFT (the bracket's first half descends it), so an attack begins lower: "
        "judge by the harmful score and by h over the attack's distance, not by a slow fall of h alone. The step is "
        "simulated in the trained parameters: an attacker who merges the adapter and trains a fresh one, or all "
        "weights, moves in others.",
    )

    def __post_init__(self) -> None:
        check("booster", lam=self.lam)
        check_length("booster", alpha=self.alpha, alpha_per_weight=self.alpha_per_weight)
        check_count("booster", steps=self.steps, every=self.every, reuse=self.reuse)
        if not 0 < self.harmful_share <= 1:
            raise ValueError(f"booster: harmful_share is {self.harmful_share}; expected a number above 0, 1 at most")
        if self.order == "exact" and self.steps > 1:
            raise ValueError(f"booster: order is exact and steps is {self.steps}; the exact gradient is of one step")
        if self.schedule and not self.lam:
            raise ValueError("booster: schedule is given and lam is 0; expected a lam above 0 to steer")
        if self.schedule and self.every > 1:
            raise ValueError(f"booster: schedule is given and every is {self.every}; expected every: 1 to steer by")
        if self.reuse > 1 and self.steps > 1:
            raise ValueError(f"booster: reuse is {self.reuse} and steps is {self.steps}; a kept g is of one step")
        if self.reuse > 1 and self.order == "exact":
            raise ValueError(f"booster: reuse is {self.reuse} and order is exact; the Hessian term needs g at w itself")

    @property
    def active(self) -> bool:
        """Is there a bracket?"""
        return self.lam > 0

    def due(self, step: int) -> bool:
        """Does the bracket count in this step?"""
        return self.active and step % self.every == 0

    @property
    def approximate(self) -> bool:
        """Is the bracket other than that of the whole harmful batch at w? Then it shares no gradient."""
        return (self.every, self.harmful_share, self.reuse) != (1, 1, 1)

    @property
    def keeps(self) -> str | None:
        """g, where several brackets share one."""
        return "has reuse above 1" if self.active and self.reuse > 1 else None

    def exact(self) -> Defense:
        """The same bracket in every step, of the whole harmful batch, with its own g."""
        return replace(super().exact(), every=1, harmful_share=1.0, reuse=1)  # type: ignore[call-arg]

    @property
    def term_cost(self) -> Cost:
        """h at w; further simulated steps and h where they lead; the Hessian term; dev rows now and then."""
        exact = self.order == "exact"
        own = self.steps + (2 if exact else 0)
        measuring = (1 + FORWARD) / self.schedule.every if self.schedule else 0
        if self.approximate:
            own = (own + 1 / self.reuse) * self.harmful_share / self.every
        return Cost(
            own=own,
            once=measuring,
            shared={} if self.approximate else {"harmful": 1},
            memory=4 if exact else 2,
            kept=int(self.keeps is not None),
            activations="those of a double backward" if exact else "",
        )

    def term_reads(self) -> dict[str, int]:
        """Harmful rows, and dev rows to steer by."""
        return {"harmful": harmful_batches(self.steps, self.inner), **({"dev": 1} if self.schedule else {})}

    def term(self, oracle: Oracle, batch: Batch) -> Step:
        """lam times the bracket, and `every` times that."""
        lam, alpha, steering = self.strength(oracle, batch)
        if not self.approximate:
            return (lam * self._bracket(oracle, batch, alpha)).log(**steering)
        fewer = batch.first("harmful", self.harmful_share)
        with oracle.sharing_nothing():
            bracket = (self._bracket if self.reuse == 1 else self._bracket_of_kept)(oracle, fewer, alpha)
        return (self.every * lam * bracket).log(**steering)

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

    def _bracket(self, oracle: Oracle, batch: Batch, alpha: float) -> Step:
        """h(w) - h(w'), w' where the simulated steps lead."""
        with attacked(oracle, batch, alpha, self.steps, self.inner) as h:
            h_moved = oracle.gradient(batch.need("harmful"))
        norm = h.gradient.norm()
        bend = self._derivative_of_the_step(oracle, batch, h, h_moved, alpha / norm) if norm > 0 else None
        bracket = h - h_moved
        if bend is not None:
            bracket = bracket + bend
        return bracket.log(**_measured(h.loss, h_moved.loss, norm))

    def _bracket_of_kept(self, oracle: Oracle, batch: Batch, alpha: float) -> Step:
        """The same with a g that may be of a step before; h is then the loss that was measured with it."""
        key, rows = f"gradient of {self!r}", batch.need("harmful")
        names = [f"{key}/{name}" for name in oracle.names]
        fresh = key not in oracle.state or (oracle.step // self.every) % self.reuse == 0
        if fresh:
            h = oracle.gradient(rows)
            oracle.tensors.update(zip(names, h.gradient.tensors(), strict=True))
            oracle.state[key] = h.loss
        g = Vector(tuple(oracle.tensors[name] for name in names))
        with oracle.moved(g.unit(), by=-alpha):
            h_moved = oracle.gradient(rows)
        loss, moved = oracle.state[key], h_moved.loss
        bracket = -1.0 * h_moved + Step(loss, g)  # in the moved gradient's buffers: g stays as it is
        return bracket.log(**(_measured(loss, moved, g.norm()) if fresh else {"harmful_loss_moved": moved}))

    def _derivative_of_the_step(
        self, oracle: Oracle, batch: Batch, h: Step, h_moved: Step, alpha_over_norm: float
    ) -> Step | None:
        """The part of Eq. 2 that first order drops: (alpha / |g|) H (g' - unit(g) <unit(g), g'>)."""
        if self.order == "first":
            return None
        unit = h.gradient.unit()
        across = h_moved.gradient.copy().plus(unit.times(-unit.dot(h_moved.gradient)))
        return alpha_over_norm * Step(0.0, oracle.hessian_times(batch.need("harmful"), across))


def _measured(h: float, h_moved: float, norm: float) -> dict[str, float]:
    """What a step logs that took h at w and at w'."""
    return {
        "harmful_loss": h,
        "harmful_loss_moved": h_moved,
        "harmful_loss_reduction": h - h_moved,
        "harmful_gradient_norm": norm,
    }
