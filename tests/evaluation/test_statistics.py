"""The intervals agree with scipy's own and with closed forms, and keep their properties on any sample."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from boostershot.evaluation.statistics import (
    bootstrap_interval,
    mean_interval,
    paired_bootstrap,
    paired_difference,
    wilson,
)

NUMBERS = st.floats(-1e3, 1e3)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_agrees_with_scipy(case):
    successes, n = case
    theirs = stats.binomtest(successes, n).proportion_ci(confidence_level=0.95, method="wilson")
    assert wilson(successes, n) == pytest.approx((100 * theirs.low, 100 * theirs.high), abs=1e-9)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_and_mirrors(case):
    successes, n = case
    low, high = wilson(successes, n)
    assert 0 <= low <= 100 * successes / n <= high <= 100
    assert low < high
    assert wilson(n - successes, n) == pytest.approx((100 - high, 100 - low))


def test_wilson_at_the_ends_is_the_closed_form():
    z = stats.norm.ppf(0.975)
    assert wilson(0, 150) == pytest.approx((0.0, 100 * z**2 / (150 + z**2)))
    assert wilson(150, 150)[1] == 100.0


@given(st.lists(NUMBERS, min_size=2, max_size=12))
def test_mean_interval_agrees_with_scipy(values):
    mean, low, high = mean_interval(values)
    theirs = stats.ttest_1samp(values, 0).confidence_interval(0.95) if np.std(values) > 1e-6 else None
    assert mean == pytest.approx(math.fsum(values) / len(values), abs=1e-9)
    if theirs is not None:
        assert (low, high) == pytest.approx((theirs.low, theirs.high), rel=1e-9, abs=1e-9)


def test_two_seeds_have_the_cauchy_quantile():
    # With two values the t quantile is tan(0.475 pi) and the standard error half their distance.
    half = math.tan(0.475 * math.pi) * 2.0
    assert mean_interval([10.0, 14.0]) == pytest.approx((12.0, 12.0 - half, 12.0 + half))


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=12))
def test_paired_difference_turns_its_sign_with_the_order(pairs):
    a, b = zip(*pairs, strict=True)
    mean, low, high = paired_difference(a, b)
    assert paired_difference(b, a) == pytest.approx((-mean, -high, -low), abs=1e-9)


def test_pairing_removes_what_the_seeds_share():
    seeds = [10.0, 50.0, 90.0]
    assert paired_difference([s + 5 for s in seeds], seeds) == pytest.approx((5.0, 5.0, 5.0))


def test_bootstrap_agrees_with_every_resample_counted():
    values = [0.0, 1.0, 5.0, 9.0]
    means = np.array([np.mean(draw) for draw in itertools.product(values, repeat=4)])
    expected = np.quantile(means, [0.025, 0.975])
    assert bootstrap_interval(values, resamples=40_000) == pytest.approx(tuple(expected), abs=0.26)


def test_bootstrap_of_many_rows_nears_the_normal_interval():
    values = np.random.default_rng(1).gamma(2.0, size=2_000)
    half = 1.96 * values.std(ddof=1) / math.sqrt(len(values))
    low, high = bootstrap_interval(values.tolist())
    assert low == pytest.approx(values.mean() - half, abs=half / 10)
    assert high == pytest.approx(values.mean() + half, abs=half / 10)


@settings(max_examples=25)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_paired_bootstrap_holds_its_mean_and_stays_in_range(pairs):
    a, b = zip(*pairs, strict=True)
    mean, low, high = paired_bootstrap(a, b, resamples=500)
    assert mean == pytest.approx((sum(a) - sum(b)) / len(a))
    # A percentile interval of a mean holds it but for a lattice step of the resamples.
    assert -1 <= low <= mean + 1 / len(a) and mean - 1 / len(a) <= high <= 1


def test_the_bootstrap_repeats_and_does_not_depend_on_its_pieces(monkeypatch):
    values = np.random.default_rng(0).normal(size=40).tolist()
    whole = bootstrap_interval(values, seed=3)
    assert whole == bootstrap_interval(values, seed=3)
    monkeypatch.setattr("boostershot.evaluation.statistics._DRAWS_AT_ONCE", 64)
    assert whole == bootstrap_interval(values, seed=3)
    assert whole != bootstrap_interval(values, seed=4)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: wilson(0, 0), "at least one trial"),
        (lambda: wilson(4, 3), "outside 0..3"),
        (lambda: mean_interval([]), "at least one number"),
        (lambda: mean_interval([1.0]), "at least two seeds"),
        (lambda: bootstrap_interval([]), "at least one number"),
        (lambda: bootstrap_interval([1.0, math.nan]), "not finite"),
        (lambda: paired_bootstrap([], []), "at least one number"),
        (lambda: paired_bootstrap([1.0], [1.0, 2.0]), "equally long, not 1 and 2"),
        (lambda: paired_difference([1.0], [2.0]), "at least two seeds"),
    ],
)
def test_a_sample_that_cannot_be_judged_is_named(call, says):
    with pytest.raises(ValueError, match=says):
        call()
