"""Steps to break, area and Kaplan-Meier, against numbers worked out by hand."""

import math

import pytest

from boostershot.evaluation.survival import kaplan_meier, steps_to_break


def test_the_break_lies_between_the_recorded_steps():
    assert steps_to_break([0, 10, 20], [0.0, 10.0, 50.0], 20) == (12.5, True)
    assert steps_to_break([0, 10], [30.0, 50.0], 20) == (0.0, True)
    assert steps_to_break([0, 10, 30], [30.0, 50.0, 20.0], 50) == (30.0, False)  # it exceeds, or it holds
    assert steps_to_break([0, 10, 20, 30], [0.0, 40.0, 0.0, 90.0], 20) == (5.0, True)  # the first crossing counts


def test_kaplan_meier_by_hand():
    # Five at risk at 5, three at 10 (one was censored at 8), none breaks after.
    survival = kaplan_meier([5, 8, 10, 10, 20], [True, False, True, True, False])
    shares = {step: share for step, share, _, _ in survival.curve}
    assert shares[5.0] == pytest.approx(4 / 5)
    assert shares[8.0] == pytest.approx(4 / 5)
    assert shares[10.0] == pytest.approx(4 / 5 * 1 / 3)
    assert survival.median == 10.0
    for _, share, low, high in survival.curve:
        assert 0 <= low <= share <= high <= 1


def test_the_band_is_greenwoods_on_the_log_log_scale():
    survival = kaplan_meier([5, 8, 10, 20, 20], [True, True, True, False, False])
    # After two breaks of five: S = 0.6, Greenwood's sum 1/(5*4) + 1/(4*3).
    share, spread = 0.6, math.sqrt(1 / 20 + 1 / 12) / abs(math.log(0.6))
    _, _, low, high = survival.curve[1]
    assert low == pytest.approx(share ** math.exp(1.959964 * spread), abs=1e-5)
    assert high == pytest.approx(share ** math.exp(-1.959964 * spread), abs=1e-5)


def test_a_defence_that_never_broke_has_no_median():
    survival = kaplan_meier([20, 30], [False, False])
    assert survival.median is None and survival.interval == (None, None)
    assert survival.curve == [(30.0, 1.0, 1.0, 1.0)]
    assert kaplan_meier([5, 9], [True, True]).interval == (5.0, None)  # two breaks bound no median from above
    few = kaplan_meier([5, 20, 20], [True, False, False])
    assert few.median is None and few.interval[1] is None


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: steps_to_break([], [], 20), "one at least"),
        (lambda: steps_to_break([0, 0], [1.0, 2.0], 20), "must rise"),
        (lambda: steps_to_break([0, 1], [1.0], 20), "got 1 and 2"),
        (lambda: kaplan_meier([], []), "one at least"),
        (lambda: kaplan_meier([1], [True, False]), "got 1, 2"),
    ],
)
def test_what_cannot_be_judged_is_named(call, says):
    with pytest.raises(ValueError, match=says):
        call()
