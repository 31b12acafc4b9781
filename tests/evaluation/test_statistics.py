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
    clustered_interval,
    crossed,
    hierarchical_bootstrap,
    holm,
    kappa,
    kappa_interval,
    mean_interval,
    mean_over_seeds,
    paired_difference,
    paired_hierarchical,
    paired_shares,
    ratio_interval,
    share_interval,
    sign_test,
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


def test_the_hierarchical_bootstrap_is_every_draw_of_seeds_and_prompts_counted():
    values = np.array([[0.0, 1.0, 4.0], [2.0, 2.0, 9.0]])
    seeds, prompts = itertools.product(range(2), repeat=2), list(itertools.product(range(3), repeat=3))
    means = [values[np.ix_(s, p)].mean() for s in seeds for p in prompts]
    mean, low, high = hierarchical_bootstrap(values.tolist(), resamples=100_000)
    assert mean == pytest.approx(3.0)
    assert (low, high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.05)


def test_what_is_unknown_is_left_out_of_every_draw():
    values = [[0.0, None, 4.0], [2.0, 5.0, 9.0]]
    means = []
    for seeds in itertools.product(range(2), repeat=2):
        for prompts in itertools.product(range(3), repeat=3):
            found = [[values[s][i] for i in prompts if values[s][i] is not None] for s in seeds]
            means += [np.mean([np.mean(one) for one in found if one])] if any(found) else []
    mean, low, high = hierarchical_bootstrap(values, resamples=100_000)
    assert mean == pytest.approx((2 + 16 / 3) / 2)
    assert (low, high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.05)


def test_one_seed_draws_the_prompts_alone():
    values = np.random.default_rng(1).gamma(2.0, size=400)
    theirs = bootstrap_interval(values.tolist())
    assert hierarchical_bootstrap([values.tolist()])[1:] == pytest.approx(theirs, abs=0.02)


def test_over_seeds_both_intervals_hold():
    values = np.random.default_rng(5).gamma(1.0, size=(3, 1)) * 10 + np.random.default_rng(6).gamma(1.0, size=(3, 30))
    mean, low, high = mean_over_seeds(values.tolist())
    _, *drawn = hierarchical_bootstrap(values.tolist())
    alone = crossed(values).joined(math.inf, -math.inf)
    assert (low, high) == pytest.approx((min(drawn[0], alone[0]), max(drawn[1], alone[1])))
    assert mean == pytest.approx(values.mean()) and high - low > 1.5 * (drawn[1] - drawn[0])


def test_seeds_that_disagree_widen_the_interval():
    draw = np.random.default_rng(0)
    alike = (draw.random((3, 150)) < 0.4) * 100.0
    apart = (draw.random((3, 150)) < np.array([[0.1], [0.4], [0.7]])) * 100.0
    width = [high - low for _, low, high in (hierarchical_bootstrap(v.tolist()) for v in (alike, apart))]
    assert width[1] > 2 * width[0]


def test_crossed_effects_are_the_t_interval_of_what_varies_alone():
    """Seeds alone: a t interval over them. Prompts alone: one over the prompts."""
    of_seed, of_prompt = np.array([[1.0], [2.0], [6.0]]), np.random.default_rng(0).normal(size=(1, 40))
    for values, alone in ((of_seed + 0 * of_prompt, of_seed), (0 * of_seed + of_prompt, of_prompt)):
        found, (mean, low, high) = crossed(values), mean_interval(alone.ravel().tolist())
        assert (found.mean, *found.joined(math.inf, -math.inf)) == pytest.approx((mean, low, high))
        assert found.p == pytest.approx(stats.ttest_1samp(alone.ravel(), 0).pvalue)


def test_crossed_effects_are_estimated_without_bias():
    """The mean of the estimated variances is that of the means, where seeds, prompts and a rest vary."""
    draw, means, variances = np.random.default_rng(3), [], []
    for _ in range(3000):
        values = draw.normal(0, 0.3, (4, 1)) + draw.normal(0, 1, (1, 12)) + draw.normal(0, 0.8, (4, 12))
        found = crossed(values)
        means.append(found.mean)
        variances.append(found.error**2)
        assert 1 <= found.freedom <= 3 + 11 + 33
    assert np.mean(variances) == pytest.approx(np.var(means), rel=0.12)


def test_what_is_unknown_is_filled_with_what_seed_and_prompt_lead_to_expect():
    values = np.arange(3.0)[:, None] + np.array([[0.0, 1.0, 5.0, 7.0]])
    holes = values.copy()
    holes[1, 2] = math.nan
    assert crossed(holes).error == pytest.approx(crossed(values).error, rel=0.15)
    nowhere = np.concatenate([values, np.full((3, 1), math.nan)], axis=1)
    assert crossed(nowhere) == pytest.approx(crossed(values))
    assert crossed(values[:1]).joined(1.0, 9.0) == (1.0, 9.0)  # one seed tells nothing of seeds


def test_few_seeds_that_differ_show_little():
    """Three seeds whose differences are -35, -25 and -21 of 150 prompts each, such as the quickstart's were."""
    b = verdicts(75, 75, 75)
    a = [[100.0 * (i < 75 - fewer) for i in range(150)] for fewer in (53, 37, 32)]
    found = paired_shares(a, b)
    assert 10 * 2 / 10_001 < found.p < stats.ttest_1samp([53, 37, 32], 0).pvalue  # prompts tell more than three numbers
    assert found.low < found.mean - 10 and found.high > found.mean + 10


def test_a_paired_difference_over_seeds_turns_its_sign_and_never_has_no_doubt():
    draw = np.random.default_rng(2)
    b = draw.normal(size=(3, 40))
    a = b + 1 + 0.1 * draw.normal(size=(3, 40))
    forth, back = paired_hierarchical(a.tolist(), b.tolist()), paired_hierarchical(b.tolist(), a.tolist())
    assert forth.mean == pytest.approx((a - b).mean()) and forth.low > 0.9  # what both share is gone
    assert back == pytest.approx((-forth.mean, -forth.high, -forth.low, forth.p))
    assert forth.p == pytest.approx(2 / 10_001)
    assert paired_hierarchical(b.tolist(), b.tolist()) == (0.0, 0.0, 0.0, 1.0)


def verdicts(*counts, n=150):
    """By seed: the verdicts on n prompts, of which the first are harmful, as many as that seed's count."""
    return [[100.0 * (i < count) for i in range(n)] for count in counts]


def test_few_prompts_show_no_more_under_many_seeds():
    four = paired_shares(verdicts(4, 4, 4), verdicts(0, 0, 0))
    assert four.p == pytest.approx(0.125)
    assert four.mean == pytest.approx(400 / 150) and four.low <= 0 < four.high
    ten = paired_shares(verdicts(10, 10, 10), verdicts(0, 0, 0))
    assert ten.p == pytest.approx(2 / 2**10, rel=0.2) and ten.low > 0


@given(st.integers(1, 3), st.integers(0, 12), st.integers(0, 12), st.integers(13, 60))
@settings(max_examples=20, deadline=None)
def test_an_interval_leaves_out_0_only_where_p_is_small(seeds, first, second, n):
    a, b = verdicts(*[first] * seeds, n=n), [list(reversed(one)) for one in verdicts(*[second] * seeds, n=n)]
    found = paired_shares(a, b)
    assert found.p >= sign_test((np.array(a) - np.array(b)).sum(axis=0).tolist()) - 1e-12
    assert found.low < found.high and found.low <= found.mean <= found.high
    assert found.p <= 0.05 or found.low <= 0 <= found.high


def test_a_large_family_has_resamples_enough_to_show_a_difference():
    a, b = verdicts(28, 28, n=30), verdicts(0, 0, n=30)
    alone, among = paired_shares(a, b), paired_shares(a, b, family=300)
    assert 300 * alone.p > 0.05  # 10,000 resamples could show nothing among 300
    assert among.p == pytest.approx(2 / 60_001) and holm([among.p, *[1.0] * 299])[0] < 0.011
    assert paired_shares(verdicts(12, 6, n=30), b, family=300).p >= sign_test([1.0] * 12)  # no more than prompts tell


def test_one_seeds_verdicts_have_mcnemars_p():
    a, b = verdicts(30), [[100.0 * (20 <= i < 34) for i in range(150)]]
    assert paired_shares(a, b).p == pytest.approx(stats.binomtest(20, 24).pvalue)  # 20 on the one side alone, 4 on both


def test_where_no_prompt_differs_the_interval_is_bonett_and_prices():
    half = 196 * math.sqrt(2 / 152 / 152)  # one of 152 either way
    same = paired_shares(verdicts(40, 40), verdicts(40, 40))
    assert same == pytest.approx((0.0, -half, half, 1.0), abs=0.001)


def test_too_few_prompts_have_no_p():
    assert paired_shares([[100.0]] * 3, [[0.0]] * 3).p is None
    assert paired_shares([[100.0]] * 3, [[0.0]] * 3).low <= 0
    assert paired_hierarchical([[3.0] * 5] * 3, [[2.0] * 5] * 3).p is None
    assert paired_shares([[100.0] * 6] * 3, [[0.0] * 6] * 3).p == pytest.approx(2 / 2**6)


def test_the_sign_test_is_the_binomial_of_the_prompts_that_differ():
    differences = [1.0] * 9 + [-1.0] * 2 + [0.0] * 30
    assert sign_test(differences) == pytest.approx(2 * stats.binom.cdf(2, 11, 0.5))
    assert sign_test([0.0] * 4) == 1.0


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.03, 0.9: times 4, 3, 2, 1, and never below the one before.
    assert holm([0.03, 0.01, 0.9, 0.02]) == pytest.approx([0.06, 0.04, 0.9, 0.06])
    assert holm([0.4, 0.6]) == pytest.approx([0.8, 0.8])
    assert holm([]) == []


def test_kappa_by_hand():
    # 20 both, 15 neither, 5 and 10 apart (Cohen's own layout): agreement 0.7, by chance 0.5.
    a = [True] * 20 + [True] * 5 + [False] * 10 + [False] * 15
    b = [True] * 20 + [False] * 5 + [True] * 10 + [False] * 15
    assert kappa(a, b) == pytest.approx(0.4)
    assert kappa([True, True], [True, True]) is None
    assert kappa([True, False], [False, True]) == pytest.approx(-1.0)


def test_kappas_interval_is_the_asymptotic_one_where_each_prompt_has_an_answer():
    counts = np.array([[160, 40], [50, 150]])  # both, the first alone; the second alone, neither
    tables = [row for row, n in zip(np.eye(4, dtype=int).tolist(), counts.flatten(), strict=True) for _ in range(n)]
    # Fleiss, Cohen and Everitt (1969), equation 13.
    p, n = counts / counts.sum(), counts.sum()
    rows, columns = p.sum(1), p.sum(0)
    agreed, chance = np.trace(p), rows @ columns
    alike = sum(p[i, i] * ((1 - chance) - (rows[i] + columns[i]) * (1 - agreed)) ** 2 for i in range(2))
    apart = (1 - agreed) ** 2 * sum(p[i, 1 - i] * (columns[i] + rows[1 - i]) ** 2 for i in range(2))
    variance = (alike + apart - (agreed * chance - 2 * chance + agreed) ** 2) / (n * (1 - chance) ** 4)
    value, half = (agreed - chance) / (1 - chance), 1.96 * math.sqrt(variance)
    assert kappa_interval(tables) == pytest.approx((value - half, value + half), abs=0.01)


def test_kappas_interval_draws_prompts_and_is_wider_where_their_answers_are_alike():
    alone = [(1, 0, 0, 0)] * 40 + [(0, 1, 0, 0)] * 10 + [(0, 0, 1, 0)] * 10 + [(0, 0, 0, 1)] * 40
    alike = [tuple(4 * one for one in table) for table in alone[::4]]
    (low, high), (least, most) = kappa_interval(alone), kappa_interval(alike)
    assert 1.5 < (most - least) / (high - low) < 3
    assert kappa_interval([*alone[:40], *alone[60:], *[(0, 1, 0, 0)] * 4]) is None  # four differences
    with pytest.raises(ValueError, match="at least one prompt"):
        kappa_interval([])


def test_a_ratio_over_seeds_tells_the_same_both_ways():
    ratio, low, high = ratio_interval([2.0, 4.0, 9.0], [1.0, 2.0, 3.0])
    assert ratio == pytest.approx(12 ** (1 / 3))
    theirs = stats.ttest_1samp(np.log([2, 2, 3]), 0).confidence_interval(0.95)
    assert (low, high) == pytest.approx((math.exp(theirs.low), math.exp(theirs.high)))
    assert ratio_interval([1.0, 2.0, 3.0], [2.0, 4.0, 9.0]) == pytest.approx((1 / ratio, 1 / high, 1 / low))


def test_answers_to_one_prompt_are_no_answers_to_many():
    n, alike = [10] * 30, [10] * 20 + [0] * 10  # ten models answered 30 prompts, and each prompt's ten are alike
    low, high = clustered_interval(alike, n)
    assert (low, high) == pytest.approx(bootstrap_interval([100.0] * 20 + [0.0] * 10), abs=3.4)
    assert high - low > 2 * (wilson(200, 300)[1] - wilson(200, 300)[0])
    assert clustered_interval([1] * 20 + [0] * 10, [1] * 30) == wilson(20, 30)
    assert clustered_interval(n, n) == wilson(30, 30)
    uneven = clustered_interval([4, 0, 1] * 20, [4, 2, 1] * 20)  # a ratio, not a mean of the prompts' shares
    assert uneven[0] < 100 * 5 / 7 < uneven[1]


def test_a_share_keeps_a_width_where_every_verdict_is_the_same():
    assert share_interval([[0.0] * 50]) == (0.0, *wilson(0, 50))
    assert share_interval([[100.0] * 50] * 3) == (100.0, *wilson(50, 50))
    assert share_interval([[None, *[0.0] * 50]] * 3) == (0.0, *wilson(0, 50))
    two = share_interval([[100.0] * 2 + [0.0] * 148] * 3)  # the same two prompts for each seed are two, not six
    assert two[2] >= wilson(2, 150)[1]
    some = [[100.0] * 20 + [0.0] * 30] * 3
    assert share_interval(some) == mean_over_seeds(some) == pytest.approx(hierarchical_bootstrap(some), abs=0.1)


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
        (lambda: hierarchical_bootstrap([]), "at least one seed"),
        (lambda: hierarchical_bootstrap([[1.0, 2.0], [None, None]]), "known of a seed must be .* at least one number"),
        (lambda: hierarchical_bootstrap([[1.0, math.nan]]), "not finite"),
        (lambda: hierarchical_bootstrap([[1.0], [1.0, 2.0]]), "one number of prompts"),
        (lambda: paired_hierarchical([[1.0, 2.0]], [[1.0], [2.0]]), "one shape"),
        (lambda: clustered_interval([0], [0]), "at least one trial"),
        (lambda: kappa([True], [True, False]), "equally long, not 1 and 2"),
        (lambda: ratio_interval([1.0, 2.0], [0.0, 1.0]), "positive"),
        (lambda: paired_difference([1.0], [2.0]), "at least two seeds"),
    ],
)
def test_a_sample_that_cannot_be_judged_is_named(call, says):
    with pytest.raises(ValueError, match=says):
        call()
