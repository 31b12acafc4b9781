"""Intervals of figures that are computed from mean curves (steps to break, ratios): seeds and rows drawn again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from boostershot.evaluation.statistics import LEVEL, mean_over_seeds, paired_shares, share_interval
from boostershot.evaluation.survival import steps_to_break

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

    Of a mean it is that of `statistics.mean_over_seeds`. Else seeds and rows are drawn as in
    `statistics.hierarchical_bootstrap`: with replacement, one draw of rows for all drawn seeds, because they met the
    same rows; with one seed the rows alone. Over two or three seeds that differ much that is too narrow. What belongs
    together (two arms on the same prompts, the steps of a course) is drawn together: it is in one row.

    Args:
        by_seed: an array for each seed, [rows, ...], with the same rows. NaN is unknown, and left out of each mean over
            rows; the mean over seeds is that of their means.
        figure: of the mean array. inf is "not reached" (a bound of None), NaN "undefined".
        seed, resamples: of the draws.

    Returns:
        `mean` is None where the figure is NaN or inf, a bound None where it is inf, and `ci` None where there is but a
        single row, or where more than 5% of the resamples are undefined.
    """
    values = np.stack(by_seed)
    if figure is float and values.shape[0] * values.shape[1] > 1:
        mean, low, high = mean_over_seeds(values.tolist())
        return {"mean": mean, "ci": [low, high]}
    mean = figure(np.nanmean(values, axis=1).mean(axis=0))
    if values.shape[0] * values.shape[1] < 2 or math.isnan(mean):
        return {"mean": finite(mean), "ci": None}
    drawn = _resampled(values, np.random.default_rng(seed), resamples)
    found = np.array([math.nan if np.isnan(one).any() else figure(one) for one in drawn])
    defined = found[~np.isnan(found)]
    if len(defined) < (1 - _UNDEFINED) * resamples:
        return {"mean": finite(mean), "ci": None}
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(defined, [tail, 1 - tail], method="inverted_cdf")  # never between a number and inf
    return {"mean": finite(mean), "ci": [finite(low), finite(high)]}


def percentage(by_seed: Sequence[Sequence[float | None] | Mapping[str, float]]) -> Figure | None:
    """The mean of values of 0 to 100 with `statistics.share_interval`; None without rows, or without a seed's.

    Of named rows each seed counts those that it has: a judge may have no verdict on some answer.
    """
    if not by_seed or not all(map(len, by_seed)):
        return None
    keys = list(dict.fromkeys(key for one in by_seed if isinstance(one, Mapping) for key in one))
    rows = [[one.get(key) for key in keys] if isinstance(one, Mapping) else list(one) for one in by_seed]
    mean, low, high = share_interval(rows)
    return {"mean": mean, "ci": [low, high]}


def points(after: Sequence[Sequence[float]], before: Sequence[Sequence[float]]) -> Figure | None:
    """The mean of `after` less `before`, shares of 0 to 100 by seed and row, with `statistics.paired_shares`' interval.

    None without rows.
    """
    if not after or not after[0]:
        return None
    mean, low, high, _ = paired_shares(after, before)
    return {"mean": mean, "ci": [low, high]}


def finite(value: float) -> float | None:
    """The value as JSON has it: None in place of inf and NaN."""
    return float(value) if math.isfinite(value) else None


def crossing(steps: Sequence[float], scores: np.ndarray, threshold: float) -> float:
    """`survival.steps_to_break`, with inf for "not reached"."""
    found = steps_to_break(steps, scores.tolist(), threshold)
    return found.step if found.reached else math.inf


def aligned(*sides: Mapping[str, Any]) -> list[str]:
    """The row ids that all sides have, in the order of the first: a judge may have no verdict on some answer."""
    return [key for key in sides[0] if all(key in side for side in sides[1:])]


def _resampled(values: np.ndarray, draw: np.random.Generator, resamples: int) -> Iterator[np.ndarray]:
    """The mean array of each resample of [seeds, rows, ...]; NaN where a drawn seed has nothing known there."""
    seeds, rows, *_ = values.shape
    known = ~np.isnan(values)
    filled, known = np.where(known, values, 0.0), known.astype(float)
    for _ in range(resamples):
        times_seed = draw.multinomial(seeds, np.full(seeds, 1 / seeds))
        times_row = draw.multinomial(rows, np.full(rows, 1 / rows))
        with np.errstate(invalid="ignore"):  # 0 / 0 is what says "nothing known"
            of_seed = np.tensordot(times_row, filled, (0, 1)) / np.tensordot(times_row, known, (0, 1))
        yield np.tensordot(times_seed[times_seed > 0] / seeds, of_seed[times_seed > 0], 1)
