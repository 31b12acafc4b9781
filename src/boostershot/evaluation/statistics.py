"""Intervals: how far a measured figure can be trusted, over prompts, over rows and over seeds.

Every interval has 95% coverage. None of the functions guesses: an empty sample or one that holds NaN is a
ValueError that says so, never an interval of zeros.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

LEVEL = 0.95
_Z = float(stats.norm.ppf(0.5 + LEVEL / 2))
# The bootstrap draws at most this many row numbers at once (8 MB), however long the sample is.
_DRAWS_AT_ONCE = 1_000_000


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Wilson's score interval of a proportion, as (low, high) in percent.

    Unlike the normal interval it stays inside 0..100 and keeps a width at 0 and at n successes
    (Wilson 1927; Brown, Cai and DasGupta 2001). Raises ValueError where n < 1 or successes is outside 0..n.
    """
    if n < 1:
        raise ValueError(f"a proportion needs at least one trial, not n={n}")
    if not 0 <= successes <= n:
        raise ValueError(f"successes={successes} is outside 0..{n}")
    share = successes / n
    shrink = 1 + _Z**2 / n
    centre = (share + _Z**2 / (2 * n)) / shrink
    half = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2)) / shrink
    # At the two ends the bound is exact in theory; rounding must not leave 1e-15 there.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return 100 * low, 100 * high


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of a figure over seeds and its Student t interval: (mean, low, high), in the unit of the values.

    Raises ValueError for fewer than two values: one seed says nothing about the spread between seeds.
    """
    sample = _sample(values, "values")
    if len(sample) < 2:
        raise ValueError("an interval over seeds needs at least two seeds")
    mean = float(sample.mean())
    error = float(sample.std(ddof=1)) / math.sqrt(len(sample))
    half = float(stats.t.ppf(0.5 + LEVEL / 2, len(sample) - 1)) * error
    return mean, mean - half, mean + half


def paired_difference(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """Mean of a - b over seeds, and its t interval: (mean, low, high). a[i] and b[i] share seed i.

    Pairing removes what the seeds have in common (their data order). Raises ValueError for unequal lengths
    or fewer than two pairs.
    """
    return mean_interval(_differences(a, b).tolist())


def bootstrap_interval(values: Sequence[float], seed: int = 0, resamples: int = 10_000) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of per-row values, as (low, high) in their unit.

    Per-row losses are skewed (a few rows hold most of the loss), which a symmetric t interval does not
    follow; the percentile bootstrap assumes no shape and never leaves the range of the values.
    """
    return _percentiles(_sample(values, "values"), seed, resamples)


def paired_bootstrap(
    a: Sequence[float], b: Sequence[float], seed: int = 0, resamples: int = 10_000
) -> tuple[float, float, float]:
    """Mean of a - b over prompts and its percentile bootstrap interval: (mean, low, high).

    a[i] and b[i] are two models' figures (verdicts as 0 and 1, or losses) on the same prompt i; prompts are
    drawn again with both figures together. Raises ValueError for unequal lengths or no prompts.
    """
    differences = _differences(a, b)
    low, high = _percentiles(differences, seed, resamples)
    return float(differences.mean()), low, high


def _percentiles(sample: np.ndarray, seed: int, resamples: int) -> tuple[float, float]:
    draw = np.random.default_rng(seed)
    rows = max(1, _DRAWS_AT_ONCE // len(sample))
    means = [
        sample[draw.integers(len(sample), size=(min(rows, resamples - start), len(sample)))].mean(axis=1)
        for start in range(0, resamples, rows)
    ]
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)


def _differences(a: Sequence[float], b: Sequence[float]) -> np.ndarray:
    if len(a) != len(b):
        raise ValueError(f"paired samples must be equally long, not {len(a)} and {len(b)}")
    return _sample(a, "a") - _sample(b, "b")


def _sample(values: Sequence[float], name: str) -> np.ndarray:
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or len(sample) == 0:
        raise ValueError(f"{name} must be a flat list of at least one number")
    if not np.isfinite(sample).all():
        raise ValueError(f"{name} holds a value that is not finite")
    return sample
