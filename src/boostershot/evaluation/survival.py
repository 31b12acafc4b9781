"""How long a defence holds: when an attack breaks it, over attacks that did and that did not, and how much got through.

An attack that ends before the defence breaks is censored: it says "not within so many steps", which is neither a
number of steps nor nothing.
"""

import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy import stats

from boostershot.evaluation.statistics import LEVEL


class Break(NamedTuple):
    """When an attack broke a defence: `step`, or not by `step`, its last, where `reached` is False."""

    step: float
    reached: bool


class Survival(NamedTuple):
    """Kaplan-Meier: the median steps to break, its interval, and the curve (step, share that holds, low, high).

    A bound is None where the curve does not fall so far: it lies beyond what was attacked.
    """

    median: float | None
    interval: tuple[float | None, float | None]
    curve: list[tuple[float, float, float, float]]


def steps_to_break(steps: Sequence[float], scores: Sequence[float], threshold: float) -> Break:
    """The first step at which the score exceeds the threshold, linear between recorded steps.

    Args:
        steps: rising.
        scores: the harmful score at each, in percent.
        threshold: in percent.

    Raises:
        ValueError: no steps, steps that do not rise, or as many scores.
    """
    _check(steps, scores)
    if scores[0] > threshold:
        return Break(float(steps[0]), True)
    for i in range(1, len(steps)):
        if scores[i] > threshold:
            share = (threshold - scores[i - 1]) / (scores[i] - scores[i - 1])
            return Break(steps[i - 1] + share * (steps[i] - steps[i - 1]), True)
    return Break(float(steps[-1]), False)


def kaplan_meier(durations: Sequence[float], reached: Sequence[bool]) -> Survival:
    """The survival of a defence over attacks and seeds (Kaplan and Meier 1958).

    The median's interval is where the curve's own 95% band (log-log, Brookmeyer and Crowley 1982) crosses one half.

    Args:
        durations: steps to break, or the last step of an attack that did not break it.
        reached: did it?

    Raises:
        ValueError: no durations, or unequal lengths.
    """
    if len(durations) != len(reached) or not len(durations):
        raise ValueError(f"expected as many durations as outcomes, one at least; got {len(durations)}, {len(reached)}")
    broke = [d for d, r in zip(durations, reached, strict=True) if r]
    held = [d for d, r in zip(durations, reached, strict=True) if not r]
    if not broke:
        return Survival(None, (None, None), [(float(max(held)), 1.0, 1.0, 1.0)])
    survival = stats.ecdf(stats.CensoredData(uncensored=broke, right=held)).sf
    with warnings.catch_warnings():  # at 0 and 1 the band has no width by its formula, and scipy says NaN
        warnings.simplefilter("ignore", RuntimeWarning)
        band = survival.confidence_interval(LEVEL, method="log-log")
    share = survival.probabilities
    low, high = (np.where(np.isnan(b), share, b) for b in (band.low.probabilities, band.high.probabilities))
    above = np.where(np.isnan(band.high.probabilities), 1.0, high)  # where there is no band, nothing is bounded
    times = survival.quantiles

    def crossing(shares: np.ndarray) -> float | None:
        below = np.flatnonzero(shares <= 0.5 + 1e-12)
        return float(times[below[0]]) if len(below) else None

    curve = list(zip(times.tolist(), share.tolist(), low.tolist(), high.tolist(), strict=True))
    return Survival(crossing(share), (crossing(low), crossing(above)), curve)


def _check(steps: Sequence[float], scores: Sequence[float]) -> None:
    if not len(steps) or len(steps) != len(scores):
        raise ValueError(f"expected as many scores as steps, one at least; got {len(scores)} and {len(steps)}")
    if any(later <= earlier for earlier, later in pairwise(steps)):
        raise ValueError(f"steps must rise; got {list(steps)}")
