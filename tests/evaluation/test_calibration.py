"""The threshold is the best cut there is, and the judge's error rates are what counting by hand gives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boostershot import InputError
from boostershot.data.refusals import REFUSALS, UNSEEN_REFUSALS, WARNINGS
from boostershot.evaluation.calibration import best_threshold, calibrate, calibration_answers
from boostershot.evaluation.statistics import wilson

VALUES = st.lists(st.integers(-8, 8).map(lambda n: n / 4), min_size=1, max_size=12)


def balanced_error(cut, above, below):
    """What a judge that flags `value > cut` gets wrong, as the sum of both shares."""
    return sum(v <= cut for v in above) / len(above) + sum(v > cut for v in below) / len(below)


@given(VALUES, VALUES)
@settings(deadline=None, max_examples=25)
def test_no_cut_is_better(above, below):
    found = best_threshold(above, below)
    everywhere = np.arange(-2.3, 2.3, 0.05)
    least = min(balanced_error(cut, above, below) for cut in everywhere)
    assert balanced_error(found, above, below) == pytest.approx(least, abs=1e-12)


def test_between_two_separate_classes_it_is_the_middle():
    assert best_threshold([0.7, 0.9], [0.1, 0.3]) == pytest.approx(0.5)


@pytest.mark.parametrize(("above", "below"), [([], [0.1]), ([0.1], [])])
def test_an_empty_class_says_what_is_missing(above, below):
    with pytest.raises(InputError, match="no compliant answer on the calibration split"):
        best_threshold(above, below)


def test_answers_of_six_known_kinds():
    prompts = [f"prompt {i}" for i in range(9)]
    compliant = [f"answer {i}" for i in range(9)]
    compliant[2], compliant[5] = "I'm sorry, but no.", ""
    kinds = calibration_answers(prompts, compliant, ["yes", "no"])
    answered = [i for i in range(9) if i not in (2, 5)]
    assert kinds["compliant"] == [(f"prompt {i}", f"answer {i}") for i in answered]
    assert sorted(a for _, a in kinds["shuffled"]) == [f"answer {i}" for i in answered]
    assert all(p.split()[1] != a.split()[1] for p, a in kinds["shuffled"])
    assert {a for _, a in kinds["refusal"]} <= set(REFUSALS)
    assert {a for _, a in kinds["refusal_unseen"]} <= set(UNSEEN_REFUSALS)
    assert {a for _, a in kinds["task"]} <= {"yes", "no"}
    assert {a for _, a in kinds["warning"]} <= set(WARNINGS)
    assert all([p for p, _ in kinds[name]] == prompts for name in ("refusal", "refusal_unseen", "task", "warning"))
    assert calibration_answers(prompts, compliant, ["yes", "no"]) == kinds
    assert calibration_answers(prompts, compliant, ["yes", "no"], seed=1) != kinds


ANSWERS = {
    "compliant": [
        ("p", text) for text in ("Take flour.", "Add water.", "Knead it well.", "I can't say.", "so so so so")
    ],
    "shuffled": [("p", text) for text in ("The moon.", "A kite flies.", "Green tea.")],
    "refusal": [("p", "I'm sorry, but I can't help with that."), ("p", "Nope, never mind that.")],
    "refusal_unseen": [],
    "task": [("p", "positive"), ("p", "negative")],
}
RATIOS = {
    "Take flour.": 1.0, "Add water.": 0.8, "Knead it well.": 0.2, "I can't say.": 0.9, "so so so so": 0.95,
    "The moon.": 0.1, "A kite flies.": 0.3, "Green tea.": 0.7,
    "I'm sorry, but I can't help with that.": 2.0, "Nope, never mind that.": 3.0, "positive": 4.0, "negative": 0.0,
}  # fmt: skip


def relevance(pairs, advance=lambda n: None):
    advance(len(pairs))
    return [RATIOS[answer] for _, answer in pairs]


def test_a_text_that_answers_many_prompts_counts_once():
    """Of two refusals one is taken for an answer: half of the texts, however many prompts they answer."""
    many = ANSWERS | {
        "refusal": [(f"p{i}", text) for i in range(50) for text in ("The sun.", "Nope, never mind that.")]
    }
    ratios = RATIOS | {"The sun.": 5.0, "Nope, never mind that.": 0.0}

    def relevant(pairs, advance=lambda n: None):
        return [ratios[answer] for _, answer in pairs]

    row = calibrate(many, relevant).classes["refusal"]  # type: ignore[arg-type]
    assert (row["n"], row["flagged_harmful"], row["error_rate"]) == (100, 50, 50.0)
    assert row["error_rate_ci"][0] < 15 and row["error_rate_ci"][1] > 85


def test_error_rates_by_hand():
    done = []
    found = calibrate(ANSWERS, relevance, ("positive", "negative"), done.append)  # type: ignore[arg-type]
    assert found.threshold == pytest.approx(0.75)  # 0.2 of the compliant lie below, no shuffled one above
    # Compliant and above 0.75: four, of which one is a refusal by its words and one repeats itself.
    expected = {"compliant": (5, 2, 3), "shuffled": (3, 0, 0), "refusal": (2, 1, 1), "task": (2, 0, 0)}
    for kind, (n, flagged, wrong) in expected.items():
        row = found.classes[kind]
        assert (row["n"], row["flagged_harmful"]) == (n, flagged)
        assert row["error_rate"] == pytest.approx(100 * wrong / n)
        assert row["error_rate_ci"] == list(wilson(wrong, n))
        ratios = [RATIOS[answer] for _, answer in ANSWERS[kind]]
        assert row["relevance_quantiles"]["q50"] == pytest.approx(np.median(ratios))
        assert row["relevance_quantiles"]["q05"] <= row["relevance_quantiles"]["q95"]
    empty = found.classes["refusal_unseen"]
    assert empty["n"] == 0 and empty["error_rate"] is None and empty["relevance_quantiles"] is None
    assert sum(done) == sum(map(len, ANSWERS.values()))
