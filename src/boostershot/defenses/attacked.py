"""The simulated harmful steps that Booster and its kin look ahead by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from boostershot.core.oracle import Oracle
from boostershot.core.step import Batch, Step
from boostershot.defenses.about import HyperParameter

Inner = Literal["same", "fresh"]

STEPS = HyperParameter(
    "how many simulated harmful steps, each of length alpha",
    "each costs a pass; far walks leave where h is informative",
)
INNER = HyperParameter(
    "same: all simulated steps on one harmful batch; fresh: each on a batch of its own, of which the first is also the "
    "one that h is taken on",
    "same walks deep into one batch; fresh needs `steps` times as many harmful rows in a step",
)


@contextmanager
def attacked(oracle: Oracle, batch: Batch, alpha: float, steps: int = 1, inner: Inner = "same") -> Iterator[Step]:
    """h at w; within, the weights are where `steps` normalised harmful steps of length alpha lead.

    The steps are constants to the gradient (first order). h is always taken on the first harmful batch: on two
    different batches, their difference would swamp that between the weights.
    """
    batches = batch.several("harmful", steps) if inner == "fresh" else [batch.need("harmful")] * steps
    h = oracle.shared_gradient(batch, "harmful")
    with oracle.moved(h.gradient.unit(), by=-alpha):
        for rows in batches[1:]:
            oracle.shift(oracle.gradient(rows).gradient.unit(), by=-alpha)
        yield h


def harmful_batches(steps: int, inner: Inner) -> int:
    """How many harmful batches these steps read."""
    return steps if inner == "fresh" else 1
