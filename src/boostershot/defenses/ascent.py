"""The harmful loss pushed up, by methods that must not run away with it: within a bound, or ever more slowly."""

from __future__ import annotations

import math

from boostershot.core.batch import Rows
from boostershot.core.hidden import lens_losses
from boostershot.core.oracle import Oracle
from boostershot.core.step import Step
from boostershot.defenses.about import HyperParameter

BOUND = HyperParameter(
    "nats above which the harmful loss is not pushed further (the term is min(loss, bound)); null is unbounded",
    "unbounded, the loss runs away and takes the model with it; a bound below h does nothing",
)


def bounded(step: Step, bound: float | None) -> Step:
    """min(loss, bound): above the bound it is a constant."""
    if bound is None or step.loss <= bound:
        return step
    return step.through(bound, 0.0)


def lens_ascent(oracle: Oracle, rows: Rows, weight: float) -> Step:
    """-weight * log(1 + the loss of these rows at all depths): it is ascended, ever more slowly."""
    depths = oracle.gradient(rows, lens_losses)
    loss = depths.loss
    return depths.through(-weight * math.log1p(loss), -weight / (1 + loss)).log(harmful_loss_at_all_depths=loss)
