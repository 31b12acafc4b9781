"""Intervals of figures that are computed from mean curves: seeds are drawn again, and prompts within each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from boostershot.evaluation.statistics import LEVEL, wilson

RESAMPLES = 2_000
_UNDEFINED = 0.05  # the share of resamples without the figure beyond which there is no interval

Figure = dict[str, Any]


def estimate(
    by_seed: Sequence[np.ndarray],
    figure: Callable[[np.ndarray], float] = float,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Figure:
    """A figure of the mean over rows and seeds, and its 95% percentile interval, `{"mean": m, "ci": [low, high]}`.

    Seeds are drawn with replacement, and within each the rows (hierarchical bootstrap); with one seed the rows alone.
    What belongs together (two arms on the same prompts, the steps of a course) is drawn together: it is in one row.

    Args:
        by_seed: an array for each seed, [rows, ...]; the mean over its rows is weighed equally with other seeds'.
        figure: of the mean array. inf is "not reached" (a bound of None), NaN "undefined".

    Returns:
        `mean` is None where the figure is NaN or inf, a bound None where it is inf, and `ci` None where there is but a
        single row, or where more than 5% of the resamples are undefined.
    """
    mean = figure(np.mean([rows.mean(axis=0) for rows in by_seed], axis=0))
    if sum(len(rows) for rows in by_seed) < 2 or math.isnan(mean):
        return {"mean": finite(mean), "ci": None}
    draw = np.random.default_rng(seed)
    found = np.sort([figure(_resampled(by_seed, draw)) for _ in range(resamples)])  # NaN sorts last
    defined = found[~np.isnan(found)]
    if len(defined) < (1 - _UNDEFINED) * resamples:
        return {"mean": finite(mean), "ci": None}
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(defined, [tail, 1 - tail], method="inverted_cdf")  # never between a number and inf
    return {"mean": finite(mean), "ci": [finite(low), finite(high)]}


def percentage(by_seed: Sequence[np.ndarray | Mapping[str, float]]) -> Figure | None:
    """The mean of values of 0 and 100: Wilson's interval with one seed, else over seeds and rows; None without rows."""
    rows = [np.array(list(one.values()) if isinstance(one, Mapping) else one, dtype=float) for one in by_seed]
    if not rows or not all(len(one) for one in rows):
        return None
    if len(rows) > 1:
        return estimate(rows)
    return {"mean": float(rows[0].mean()), "ci": [*wilson(int((rows[0] > 0).sum()), len(rows[0]))]}


def finite(value: float) -> float | None:
    """The value as JSON has it: None in place of inf and NaN."""
    return float(value) if math.isfinite(value) else None


def _resampled(by_seed: Sequence[np.ndarray], draw: np.random.Generator) -> np.ndarray:
    picked = [by_seed[i] for i in draw.integers(len(by_seed), size=len(by_seed))]
    return np.mean([rows[draw.integers(len(rows), size=len(rows))].mean(axis=0) for rows in picked], axis=0)


def crossing(steps: Sequence[float], scores: Sequence[float], threshold: float) -> float:
    """The first step at which the scores reach the threshold, linearly interpolated; inf where they never do."""
    for i, score in enumerate(scores):
        if score >= threshold:
            if i == 0:
                return float(steps[0])
            share = (threshold - scores[i - 1]) / (score - scores[i - 1])
            return float(steps[i - 1] + share * (steps[i] - steps[i - 1]))
    return math.inf


def aligned(*sides: Mapping[str, Any]) -> list[str]:
    """The row ids that all sides have, in the order of the first."""
    return [key for key in sides[0] if all(key in side for side in sides[1:])]
