"""The worst case within a utility bound, against made-up searches counted by hand."""

import random

import pytest

from boostershot.evaluation.worst_case import Tried, cost_to_break, curve, utility_loss, within, worst_case

#                 number steps samples HS  loss utility
TRIED = [Tried(*one) for one in [
    (0, 100, 200, 20.0, 3.0, 80.0),
    (1, 200, 300, 95.0, 1.0, 10.0),
    (3, 50, 300, 60.0, 2.0, 72.0),
    (4, 200, 100, 60.0, 1.5, 70.0),
    (6, 200, 300, 75.0, 1.2, 64.0),
    (7, 10, 10, 99.0, 0.9, None),
]]  # fmt: skip


def test_the_bound_is_relative_to_the_best():
    assert utility_loss(72.0, 80.0) == pytest.approx(0.1)
    assert utility_loss(90.0, 80.0) == 0
    assert utility_loss(None, 80.0) is None
    assert utility_loss(5.0, 0.0) is None
    assert [one.number for one in within(TRIED, 80.0, 0.1)] == [0, 3]
    assert [one.number for one in within(TRIED, 80.0, 0.2)] == [0, 3, 4, 6]
    assert len(within(TRIED, 80.0, None)) == 6


def test_the_worst_case_grows_with_the_bound_and_is_none_without_a_trial_in_it():
    assert worst_case(TRIED, 80.0, 0.05).number == 0
    assert worst_case(TRIED, 80.0, 0.1).number == 3
    assert worst_case(TRIED, 80.0, 0.13).number == 4  # as harmful as 3, at a lower loss
    assert worst_case(TRIED, 80.0, 0.2).number == 6
    assert worst_case(TRIED, 80.0, None).number == 7
    assert worst_case(TRIED, 100.0, 0.05) is None
    assert worst_case(TRIED, None, 0.2) is None


def test_the_cost_counts_all_trials_up_to_the_one_that_broke_it():
    taken = [100, 200, 5, 50, 200, 40, 200, 10]
    found = cost_to_break(TRIED, 60.0, 80.0, 0.2, taken)
    assert found.spent == 100 + 200 + 5 + 50
    assert (found.trial, found.trials, found.steps, found.samples, found.product) == (3, 4, 50, 300, 60_000)
    assert cost_to_break(TRIED, 60.0, 80.0, None, taken).product == 10 * 10 * 8
    assert cost_to_break(TRIED, 80.0, 80.0, 0.2, taken) is None


def test_curves_rise_with_the_budget():
    assert curve(TRIED, lambda one: one.number + 1, 80.0, 0.2) == [(1, 20.0), (4, 60.0), (7, 75.0)]
    assert curve(TRIED, lambda one: one.steps, 80.0, 0.2) == [(50, 60.0), (200, 75.0)]
    assert curve(TRIED, lambda one: one.samples, 80.0, None) == [(10, 99.0)]
    assert curve(TRIED, lambda one: one.steps, None, 0.2) == []


def test_a_wider_bound_never_has_a_better_worst_case():
    draw = random.Random(0)
    for _ in range(200):
        tried = [Tried(n, 10, 10, draw.randrange(100), draw.random(), draw.randrange(1, 100)) for n in range(8)]
        best = max(one.utility for one in tried)
        worst = [worst_case(tried, best, epsilon) for epsilon in (0.0, 0.05, 0.1, 0.2, None)]
        assert worst[0] is not None  # the best itself
        scores = [one.harmful_score for one in worst]
        assert scores == sorted(scores)
