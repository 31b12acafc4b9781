"""The length of a simulated step, given absolutely or per weight."""

from __future__ import annotations

import math

from boostershot.core.oracle import Oracle
from boostershot.defenses.about import HyperParameter
from boostershot.defenses.defense import check

ALPHA = HyperParameter(
    "length of the simulated step over all trainable weights together; give this or alpha_per_weight",
    "an absolute length: right for one rank and model, wrong for the next; in Booster's sweep 0.5 was worse than SFT",
)
ALPHA_PER_WEIGHT = HyperParameter(
    "the same as a root mean square per weight: alpha = alpha_per_weight * sqrt(trainable weights); Booster's "
    "published 0.1 on 25,165,824 weights is 2e-5",
    "far above 1e-4 the alignment loss does not converge; below 1e-7 float32 rounds the step away",
)


def check_length(method: str, **ways: float | None) -> None:
    """Raises ValueError unless exactly one of the two ways to give it is used, and is finite and 0 or more."""
    if sum(value is not None for value in ways.values()) != 1:
        raise ValueError(f"{method}: takes exactly one of {' and '.join(ways)}")
    check(method, **ways)


def length(oracle: Oracle, alpha: float | None, alpha_per_weight: float | None) -> float:
    """The absolute length, whichever way it was given."""
    if alpha is not None:
        return alpha
    assert alpha_per_weight is not None
    return alpha_per_weight * math.sqrt(oracle.trainable_weights)
