"""Intervals: how far a measured figure can be trusted, over prompts, over rows and over seeds.

Every interval is meant to hold the truth in 95% of studies; bench/intervals.py tells how often those over seeds do.
None of the functions guesses: an empty sample or one that holds NaN is a ValueError that says so, never an interval of
zeros.
"""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.95
_Z = float(stats.norm.ppf(0.5 + LEVEL / 2))
# The bootstrap draws at most this many row numbers at once (8 MB), however long the sample is.
_DRAWS_AT_ONCE = 1_000_000

# With five pairs no exact test over them can come to 0.05: the least that they give is 2 / 2^5.
FEWEST_PAIRS = 6
# Of n resamples the least p is 2 / (n + 1). A comparison in a family of m has 200 m of them where it needs so many, and
# 0.01 is then the least that Holm's method makes of p; with the most of them nothing is shown in a family over 5,000.
_RESAMPLES, _RESAMPLES_OF_FAMILY, _MOST_RESAMPLES = 10_000, 200, 200_000

Figures = Sequence[float | None]  # a prompt each, in the same order for every seed; None where it is unknown


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


def ratio_interval(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """Geometric mean over seeds of a / b, and its interval: (ratio, low, high). a[i] and b[i] share seed i.

    The t interval of the logarithm, so that a / b and b / a tell the same. Raises ValueError for a value that is
    not positive, unequal lengths or fewer than two pairs.
    """
    if min([*a, *b], default=1.0) <= 0:
        raise ValueError("a ratio needs positive values")
    mean, low, high = paired_difference([math.log(value) for value in a], [math.log(value) for value in b])
    return math.exp(mean), math.exp(low), math.exp(high)


def hierarchical_bootstrap(
    by_seed: Sequence[Figures], seed: int = 0, resamples: int = 10_000
) -> tuple[float, float, float]:
    """Mean over seeds of their means over prompts, and its interval: (mean, low, high), in the unit of the values.

    by_seed[s][i] is the figure of prompt i under seed s, None where it is unknown: a mean is over what is known. Seeds
    are drawn with replacement, then prompts, and one draw of prompts serves all drawn seeds, because they were asked
    the same prompts (the two-way bootstrap of Owen, 2007). Two or three seeds leave little to draw, and where they
    differ by more than their prompts the interval is too narrow: `mean_over_seeds`. Raises ValueError for no seeds, for
    seeds with unequal numbers of prompts, and for a seed of which nothing is known.
    """
    values = _matrix(by_seed)
    return _mean(values), *_middle(_two_way([*values[:, None]], [[1.0]] * len(values), seed, resamples))


class Crossed(NamedTuple):
    """A mean of seeds and prompts, its standard error, and the degrees of freedom of its t distribution."""

    mean: float
    error: float
    freedom: float

    def joined(self, low: float, high: float) -> tuple[float, float]:
        """The least interval that holds both this one and its own."""
        half = float(stats.t.ppf(0.5 + LEVEL / 2, self.freedom)) * self.error if self.error else 0.0
        return min(low, self.mean - half), max(high, self.mean + half)

    @property
    def p(self) -> float:
        """Of no mean, two-sided."""
        if not self.error:
            return float(self.mean == 0)
        return float(2 * stats.t.sf(abs(self.mean) / self.error, self.freedom))


def crossed(values: np.ndarray) -> Crossed:
    """The mean of [seeds, prompts] as that of crossed random effects: other seeds and other prompts would be others.

    Its variance is (MS_seeds + MS_prompts - MS_rest) / (seeds * prompts), of the mean squares of a two-way analysis of
    variance, with Satterthwaite's (1946) degrees of freedom: few, where seeds are few and differ by more than their
    prompts do. With one seed nothing is known of seeds, and the error is 0. NaN (unknown) is filled with what its seed
    and its prompt lead to expect.
    """
    mean = _mean(values)
    values = values[:, ~np.isnan(values).all(axis=0)]
    seeds, prompts = values.shape
    if seeds == 1:
        return Crossed(mean, 0.0, 1.0)
    of_seed, of_prompt = np.nanmean(values, axis=1, keepdims=True), np.nanmean(values, axis=0, keepdims=True)
    values = np.where(np.isnan(values), of_seed + of_prompt - mean, values)
    of_seed, of_prompt = values.mean(axis=1, keepdims=True), values.mean(axis=0, keepdims=True)
    squares = [prompts * (of_seed - values.mean()) ** 2, seeds * (of_prompt - values.mean()) ** 2]
    squares.append((values - of_seed - of_prompt + values.mean()) ** 2)
    freedom = [seeds - 1, prompts - 1, (seeds - 1) * (prompts - 1)]
    between, among, rest = (float(one.sum() / max(free, 1)) for one, free in zip(squares, freedom, strict=True))
    variance = max(between + among - rest, between, among)
    if not variance:
        return Crossed(mean, 0.0, 1.0)
    spread = sum(one**2 / max(free, 1) for one, free in zip((between, among, rest), freedom, strict=True))
    return Crossed(mean, math.sqrt(variance / (seeds * prompts)), variance**2 / spread)


def mean_over_seeds(by_seed: Sequence[Figures]) -> tuple[float, float, float]:
    """The mean over seeds of their means over prompts, and its interval: (mean, low, high), in the unit of the values.

    `hierarchical_bootstrap`, which follows a skewed figure, joined with `crossed`, which knows how few the seeds are;
    arguments and errors as there.
    """
    mean, low, high = hierarchical_bootstrap(by_seed)
    return mean, *crossed(_matrix(by_seed)).joined(low, high)


class Difference(NamedTuple):
    """A mean difference, its interval, and the two-sided p-value of no difference, None of too few pairs."""

    mean: float
    low: float
    high: float
    p: float | None


def paired_hierarchical(
    a_by_seed: Sequence[Sequence[float]], b_by_seed: Sequence[Sequence[float]], seed: int = 0, resamples: int = 10_000
) -> Difference:
    """a - b on the same seeds and prompts, as in `mean_over_seeds` of the differences.

    p is twice the smaller share of resampled means on either side of 0, of which each has one more than counted, so
    that it is never 0; with two seeds or more the larger of it and that of `crossed`. With a single seed only the
    prompts are drawn. None with fewer than `FEWEST_PAIRS` prompts.
    """
    differences = _paired(a_by_seed, b_by_seed)
    means = _two_way([*differences[:, None]], [[1.0]] * len(differences), seed, resamples)
    over = crossed(differences)
    p = _both_sides(means) if len(differences) == 1 else max(_both_sides(means), over.p)
    return Difference(over.mean, *over.joined(*_middle(means)), p if differences.shape[1] >= FEWEST_PAIRS else None)


def paired_shares(
    a_by_seed: Sequence[Sequence[float]], b_by_seed: Sequence[Sequence[float]], family: int = 1
) -> Difference:
    """a - b of shares (0 to 100 a prompt) on the same seeds and prompts, safe where few prompts differ.

    `family` is among how many comparisons p will be corrected: there are resamples enough that it can come below 0.05.

    One seed: p is the exact sign test over prompts, for verdicts McNemar's (1947). More: the largest of that test's, of
    each prompt's mean over seeds, and both of `paired_hierarchical`, which make much of few prompts: the same four of
    150 under three seeds have p = 0.03 by its bootstrap. None with fewer than `FEWEST_PAIRS` prompts. The interval is
    that of `paired_hierarchical`; where fewer than ten prompts differ, joined with Bonett and Price's (2012), which has
    a width where none differs; and joined with 0 where p is above 0.05. It stays within -100 and 100.
    """
    differences = _paired(a_by_seed, b_by_seed)
    seeds, prompts = differences.shape
    of_prompt = differences.sum(axis=0) / (100 * seeds)
    exact = sign_test(of_prompt.tolist())
    means = _two_way([*differences[:, None]], [[1.0]] * seeds, 0, _RESAMPLES)
    more = min(_MOST_RESAMPLES, _RESAMPLES_OF_FAMILY * family)
    if seeds > 1 and more > _RESAMPLES and exact < _both_sides(means) < 10 * 2 / _RESAMPLES:  # so few tell little of p
        means = _two_way([*differences[:, None]], [[1.0]] * seeds, 0, more)
    over = crossed(differences)
    low, high = over.joined(*_middle(means))
    p = exact if seeds == 1 else max(exact, _both_sides(means), over.p)
    if (differences != 0).any(axis=0).sum() < 10:
        least, most = _bonett_price(float(of_prompt.clip(0).sum()), float((-of_prompt).clip(0).sum()), prompts)
        low, high = min(low, least), max(high, most)
    if p > 1 - LEVEL:
        low, high = min(low, 0.0), max(high, 0.0)
    return Difference(over.mean, max(low, -100.0), min(high, 100.0), p if prompts >= FEWEST_PAIRS else None)


def sign_test(differences: Sequence[float]) -> float:
    """Exact two-sided p-value of the sign test: are differences as often above 0 as below? 1 where all are 0."""
    above, below = sum(value > 0 for value in differences), sum(value < 0 for value in differences)
    return float(stats.binomtest(above, above + below).pvalue) if above + below else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values, in the order given: the family-wise error rate is at most their bound."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def kappa(a: Sequence[bool], b: Sequence[bool]) -> float | None:
    """Cohen's (1960) kappa of two judges' verdicts on the same answers; None where both give one and the same always.

    Raises ValueError for unequal lengths or no answers.
    """
    first, second = _sample([float(x) for x in a], "a"), _sample([float(x) for x in b], "b")
    if len(first) != len(second):
        raise ValueError(f"paired samples must be equally long, not {len(first)} and {len(second)}")
    counts = np.array(
        [(first * second).sum(), (first > second).sum(), (first < second).sum(), (first + second == 0).sum()]
    )
    found = float(_kappas(counts[None])[0])
    return None if math.isnan(found) else found


def kappa_interval(tables: Sequence[tuple[int, int, int, int]]) -> tuple[float, float] | None:
    """Interval of Cohen's kappa of two judges, as (low, high).

    Args:
        tables: of each prompt the answers that both judges call harmful, the first alone, the second alone, neither.

    Prompts are drawn, with all their answers, as in `clustered_interval`; draws in which both judges give one verdict
    throughout have no kappa and are left out. None where the judges differ on fewer than five prompts, or agree on a
    verdict on fewer than five: the bootstrap would have nothing to draw. Raises ValueError for no prompts.
    """
    counts = np.asarray(tables, dtype=float)
    if counts.size == 0:
        raise ValueError("an interval needs at least one prompt")
    if min((counts[:, 1:3].sum(1) > 0).sum(), (counts[:, 0] > 0).sum(), (counts[:, 3] > 0).sum()) < 5:
        return None
    found = np.concatenate([_kappas(times @ counts) for _, times in _draws(1, len(counts), 0, _RESAMPLES)])
    return _middle(found[~np.isnan(found)])


def share_interval(by_seed: Sequence[Figures]) -> tuple[float, float, float]:
    """Mean over seeds of shares over prompts (0 to 100 each, None unknown), and its interval, all in percent.

    Returns (mean, low, high). Verdicts of one seed: Wilson's. Else as `mean_over_seeds`; where fewer than five
    prompts have more than 0, or fewer than five less than 100, it has nothing to draw, and is joined with Wilson's of
    as many prompts as a seed has verdicts on. So no interval is narrower than what so few can tell.
    """
    return course_interval([[one] for one in by_seed], [[1.0]] * len(by_seed))


def clustered_interval(successes: Sequence[int], n: Sequence[int]) -> tuple[float, float]:
    """Interval of sum(successes) / sum(n), as (low, high) in percent: successes[i] of n[i] trials belong to prompt i.

    Answers to one prompt, of several models, are alike: prompts are drawn, with all their answers, as in
    `hierarchical_bootstrap`. With an answer a prompt it is Wilson's. Where fewer than five prompts have a success, or
    fewer than five a failure, it is joined with Wilson's of as many trials as there are prompts. Raises ValueError for
    no prompts, or a prompt without a trial.
    """
    found, trials = _sample(successes, "successes"), _sample(n, "trials")
    if len(found) != len(trials) or trials.min() < 1:
        raise ValueError("each prompt needs its successes and at least one trial")
    around = wilson(round(len(trials) * found.sum() / trials.sum()), len(trials))
    if trials.max() == 1:
        return around
    drawn = _draws(1, len(trials), 0, _RESAMPLES)
    low, high = _middle(np.concatenate([100 * (times @ found) / (times @ trials) for _, times in drawn]))
    if min((found > 0).sum(), (found < trials).sum()) < 5:
        low, high = min(low, around[0]), max(high, around[1])
    return low, high


def course_interval(
    by_seed: Sequence[Sequence[Figures]], weights: Sequence[Sequence[float]]
) -> tuple[float, float, float]:
    """`share_interval` of a weighted mean of several shares of the same prompts, such as an area under a curve.

    by_seed[s][c][i] is what prompt i has in share c under seed s; weights[s][c], of sum 1, what that share counts.
    """
    seeds = [_matrix(one) for one in by_seed]
    if len({values.shape[1] for values in seeds}) > 1:
        raise ValueError("seeds must have one number of prompts each, and the same")
    mean = float(np.mean([_mean(values, of) for values, of in zip(seeds, weights, strict=True)]))
    known = [~np.isnan(values) for values in seeds]
    n = round(float(np.mean([of @ there.sum(axis=1) for there, of in zip(known, map(np.array, weights), strict=True)])))
    around = wilson(round(mean * n / 100), n)
    if [len(values) for values in seeds] == [1] and np.isin(seeds[0][known[0]], (0, 100)).all():
        return mean, *around
    means = _two_way(seeds, weights, 0, _RESAMPLES)
    low, high = _middle(means) if len(means) else around  # none has all shares where each has a verdict or two
    of_prompt = np.stack([np.array(of) @ values for values, of in zip(seeds, weights, strict=True)])
    if not np.isnan(of_prompt).all(axis=1).any():  # else some seed has no prompt with all its shares
        low, high = crossed(of_prompt)._replace(mean=mean).joined(low, high)
        low, high = max(low, 0.0), min(high, 100.0)
    every = np.concatenate(seeds)
    if min((every > 0).any(axis=0).sum(), (every < 100).any(axis=0).sum()) < 5:
        low, high = min(low, around[0]), max(high, around[1])
    return mean, low, high


def _mean(values: np.ndarray, weights: Sequence[float] | None = None) -> float:
    """The (weighted) mean of the rows' means over what is known in each."""
    return float(np.average(np.nanmean(values, axis=1), weights=weights))


def _two_way(
    by_seed: Sequence[np.ndarray], weights: Sequence[Sequence[float]], seed: int, resamples: int
) -> np.ndarray:
    """The mean over seeds, in each resample, of their weighted shares: by_seed[s] is [shares, prompts].

    How often a seed and a prompt was drawn is what it counts. A seed counts as not drawn where nothing drawn is known
    of one of its shares, and a resample without any seed is left out.
    """
    known = [~np.isnan(values) for values in by_seed]
    filled = [np.where(there, values, 0.0) for there, values in zip(known, by_seed, strict=True)]
    seeds, prompts = len(by_seed), by_seed[0].shape[1]
    means = []
    for times_seed, times_prompt in _draws(seeds, prompts, seed, resamples):
        of_seed, counted = np.empty_like(times_seed), np.empty_like(times_seed)
        for s, (values, there) in enumerate(zip(filled, known, strict=True)):
            asked = times_prompt @ there.T.astype(float)
            of_seed[:, s] = (times_prompt @ values.T) / np.maximum(asked, 1) @ np.array(weights[s])
            counted[:, s] = times_seed[:, s] * (asked > 0).all(axis=1)
        some = counted.any(axis=1)
        means.append((counted * of_seed)[some].sum(axis=1) / counted[some].sum(axis=1))
    return np.concatenate(means)


def _draws(seeds: int, prompts: int, seed: int, resamples: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """How often each seed and each prompt was drawn, [resamples, seeds or prompts], in pieces."""
    piece = min(10_000, max(1, _DRAWS_AT_ONCE // max(seeds, prompts)))
    for number, start in enumerate(range(0, resamples, piece)):
        times_seed, times_prompt = _drawn(seeds, prompts, seed, number, piece)
        yield times_seed[: resamples - start].astype(float), times_prompt[: resamples - start].astype(float)


def _kappas(tables: np.ndarray) -> np.ndarray:
    """Cohen's kappa of each table [n, 4] of counts: both, the first alone, the second alone, neither; NaN for 0 / 0."""
    both, first, second, neither = (tables / tables.sum(1, keepdims=True)).T
    chance = (both + first) * (both + second) + (neither + first) * (neither + second)
    with np.errstate(invalid="ignore"):
        return np.where(chance == 1, np.nan, (both + neither - chance) / (1 - chance))


def _paired(a_by_seed: Sequence[Sequence[float]], b_by_seed: Sequence[Sequence[float]]) -> np.ndarray:
    """a - b: [seeds, prompts]."""
    a, b = _matrix(a_by_seed), _matrix(b_by_seed)
    if a.shape != b.shape:
        raise ValueError(f"paired samples must be of one shape, not {a.shape} and {b.shape}")
    return a - b


def _both_sides(means: np.ndarray) -> float:
    nothing = 1e-9 * np.abs(means).max()  # a mean of 0 may be off by its rounding
    sides = (means <= nothing).sum(), (means >= -nothing).sum()
    return float(min(1.0, 2 * (1 + min(sides)) / (1 + len(means))))


def _bonett_price(more: float, less: float, prompts: int) -> tuple[float, float]:
    """Bonett and Price's (2012) adjusted Wald interval of a difference of paired shares, (low, high) in percent.

    `more` prompts have the property on the first side alone, `less` on the second alone.
    """
    up, down = (more + 1) / (prompts + 2), (less + 1) / (prompts + 2)
    half = _Z * math.sqrt((up + down - (up - down) ** 2) / (prompts + 2))
    return 100 * max(-1.0, up - down - half), 100 * min(1.0, up - down + half)


# A run has hundreds of figures on the same seeds and prompts, and to draw takes a hundred times as long as to weigh.
@lru_cache(maxsize=64)  # of at most 2 MB each
def _drawn(seeds: int, prompts: int, seed: int, number: int, resamples: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each seed, and each prompt, was drawn in each of a piece's resamples: [resamples, seeds or prompts]."""
    draw = np.random.default_rng([seed, number])
    times_seed, times_prompt = (
        draw.multinomial(n, np.full(n, 1 / n), resamples).astype(np.min_scalar_type(n)) for n in (seeds, prompts)
    )
    return times_seed, times_prompt


def _middle(means: np.ndarray) -> tuple[float, float]:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def _matrix(by_seed: Sequence[Figures]) -> np.ndarray:
    """[seeds, prompts], NaN where a figure is unknown."""
    if len({len(values) for values in by_seed}) > 1:
        raise ValueError("seeds must have one number of prompts each, and the same")
    if not by_seed:
        raise ValueError("seeds must be a list of at least one seed")
    for values in by_seed:
        _sample([value for value in values if value is not None], "what is known of a seed")
    return np.array([[math.nan if value is None else value for value in values] for values in by_seed], dtype=float)


def _percentiles(sample: np.ndarray, seed: int, resamples: int) -> tuple[float, float]:
    draw = np.random.default_rng(seed)
    rows = max(1, _DRAWS_AT_ONCE // len(sample))
    means = [
        sample[draw.integers(len(sample), size=(min(rows, resamples - start), len(sample)))].mean(axis=1)
        for start in range(0, resamples, rows)
    ]
    return _middle(np.concatenate(means))


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
