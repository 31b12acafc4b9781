"""The four properties from made-up figures, against values worked out by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from boostershot.evaluation.properties.generalization import Second, Transfer, generalization
from boostershot.evaluation.properties.resampling import crossing, estimate, percentage
from boostershot.evaluation.properties.resistance import Course, resistance
from boostershot.evaluation.properties.stability import Capability, stability
from boostershot.evaluation.properties.trainability import trainability
from boostershot.evaluation.statistics import hierarchical_bootstrap, wilson
from boostershot.report.scorecard import reached


def rows(*values):
    return {f"row-{i}": float(value) for i, value in enumerate(values)}


def share(percent, n=20):
    """n rows of which that percentage is 100."""
    return rows(*[100 if i < percent * n / 100 else 0 for i in range(n)])


def course(scores, *, defense="sft", attack="mix", seed=0, steps=(0, 10, 20), losses=None, distance=None, utility=None):
    losses = losses or [[3.0, 5.0], [2.0, 4.5], [1.0, 4.0]][: len(steps)]
    nothing = [None] * len(steps)
    return Course(
        defense, attack, seed, steps, [share(s) for s in scores], losses, distance or nothing, utility or nothing
    )


# --- intervals ----------------------------------------------------------------------------------------------------


def test_a_crossing_is_interpolated_and_censored():
    assert crossing((0, 10, 30), np.array((0, 20, 80)), 50) == pytest.approx(20)
    assert crossing((0, 10), np.array((60, 80)), 50) == 0
    assert crossing((0, 10), np.array((0, 50)), 50) == math.inf  # it has to exceed the threshold


def test_an_interval_over_rows_is_the_bootstraps_of_their_mean():
    draw = np.random.default_rng(1)
    sample = draw.normal(3, 2, size=400)
    found = estimate([sample])
    half = 1.96 * sample.std() / 20
    assert found["mean"] == pytest.approx(sample.mean())
    assert found["ci"] == pytest.approx([sample.mean() - half, sample.mean() + half], abs=0.03)


def test_an_interval_over_seeds_holds_the_spread_between_them():
    seeds = [np.full(50, value) for value in (1.0, 2.0, 6.0)]
    found = estimate(seeds)
    assert found["mean"] == pytest.approx(3)
    half = stats.t.ppf(0.975, 2) * np.std([1, 2, 6], ddof=1) / 3**0.5  # the draws alone would end at 1 and 6
    assert found["ci"] == pytest.approx([3 - half, 3 + half])
    assert estimate(seeds[:1])["ci"] == pytest.approx([1.0, 1.0])


def test_it_agrees_with_the_bootstrap_of_plain_means():
    draw = np.random.default_rng(2)
    seeds = [draw.normal(i, 1, size=60) for i in range(3)]
    _, low, high = hierarchical_bootstrap([list(one) for one in seeds])
    found = estimate([one[:, None] for one in seeds], lambda mean: float(mean[0]))
    assert found["ci"] == pytest.approx([low, high], abs=0.12)


def test_what_is_not_reached_or_undefined_says_so():
    sample = [np.array([[0.0, 100.0], [0.0, 100.0], [0.0, 0.0]])]
    censored = estimate(sample, lambda scores: crossing((0, 10), scores, 50))
    assert censored["mean"] == pytest.approx(7.5)
    assert censored["ci"] == [pytest.approx(5.0), None]  # a resample without two of the first rows never breaks
    assert estimate(sample, lambda scores: math.nan) == {"mean": None, "ci": None}
    assert estimate([np.array([4.0])]) == {"mean": 4.0, "ci": None}


def test_a_percentage_of_one_seed_has_wilsons_interval():
    assert percentage([share(25)]) == {"mean": 25.0, "ci": [*wilson(5, 20)]}
    two = percentage([share(25), share(75)])
    assert two["mean"] == 50 and two["ci"][0] < 25 and two["ci"][1] > 75
    assert percentage([]) is None and percentage([{}]) is None


# --- resistance ---------------------------------------------------------------------------------------------------


def test_resistance_of_one_course_by_hand():
    found = resistance([course((0, 40, 80), distance=[0.0, 1.0, 3.0], utility=[5.0, 7.0, 9.0])], 50)
    (cell,), (line,) = found["cells"], found["defenses"]
    assert [point["harmful_score"]["mean"] for point in cell["curve"]] == [0, 40, 80]
    assert cell["curve"][1]["harmful_score"]["ci"] == [*wilson(8, 20)]
    assert [point["harmful_loss"]["mean"] for point in cell["curve"]] == [4.0, 3.25, 2.5]
    assert cell["area"]["mean"] == pytest.approx(40)  # (0 + 40) / 2 and (40 + 80) / 2, over equal stretches
    assert cell["loss_slope"]["mean"] == pytest.approx(-7.5)  # from 4 to 2.5 in 20 steps, in nats for 100
    assert cell["steps_to_break"]["mean"] == pytest.approx(12.5)
    assert cell["distance_to_break"]["mean"] == pytest.approx(1.5)
    assert cell["lost_utility_at_break"]["mean"] == pytest.approx(7.5)
    assert cell["steps_to_break"]["ci"][0] < 12.5 < cell["steps_to_break"]["ci"][1]
    assert (line["broken"], line["courses"], line["within"]) == (1, 1, 20)
    assert line["steps_to_break"] == {"mean": pytest.approx(12.5), "ci": None}  # one course has no interval


def test_at_the_break_a_seed_has_its_own_distance():
    courses = [course((0, 40, 80), seed=s, distance=[0.0, d, 3 * d]) for s, d in enumerate((1.0, 2.0))]
    (cell,) = resistance(courses, 50)["cells"]
    found = cell["distance_to_break"]
    assert found["mean"] == pytest.approx(2.25)  # 1.5 and 3
    assert found["ci"][0] < 1.5 and found["ci"][1] > 3


def test_of_a_falling_course_nothing_is_known_beyond_its_end():
    """Perplexity falls back while the attack goes on: whoever breaks later has lost less, and not more."""
    (cell,) = resistance([course((0, 40, 55), utility=[30.0, 20.0, 14.0])], 50)["cells"]
    found = cell["lost_utility_at_break"]
    assert found["mean"] == pytest.approx(20 - 6 * 10 / 15)
    assert found["within"] is None and found["ci"] is None  # too many resamples do not break
    (never,) = resistance([course((0, 10, 20), utility=[30.0, 20.0, 14.0])], 50)["cells"]
    assert reached(never["lost_utility_at_break"], never["lost_utility_at_break"]["within"]) == "not broken"


def test_a_model_that_is_not_broken_is_censored():
    found = resistance([course((0, 10, 20))], 50)
    (cell,), (line,) = found["cells"], found["defenses"]
    assert cell["steps_to_break"] == {"mean": None, "ci": [None, None]}
    assert cell["within"] == 20 and line["broken"] == 0 and line["steps_to_break"]["mean"] is None
    assert cell["distance_to_break"] is None and cell["curve"][0]["distance"] is None


def test_kaplan_meier_is_over_seeds_and_attacks():
    courses = [
        course((0, 40, 80), seed=0),  # 12.5
        course((0, 100, 100), seed=1),  # 5
        course((0, 10, 20), attack="full", seed=0),  # not within 20
        course((0, 100, 100), attack="full", seed=1, steps=(0, 4, 8)),  # 2
        course((0, 0, 0), defense="booster"),
    ]
    found = resistance(courses, 50)
    sft, booster = found["defenses"]
    assert (sft["courses"], sft["broken"], sft["attacks"], sft["seeds"]) == (4, 3, 2, 2)
    assert sft["steps_to_break"]["mean"] == pytest.approx(5)  # survival 3/4, 2/4, 1/4 after 2, 5, 12.5
    assert [point[1] for point in sft["survival"]] == pytest.approx([0.75, 0.5, 0.25, 0.25])
    assert sft["area"]["mean"] == pytest.approx(((40 + 10) / 2 + (75 + 75) / 2) / 2)
    assert (booster["courses"], booster["broken"]) == (1, 0)
    assert len(found["cells"]) == 3


def test_a_verdict_that_one_step_lacks_is_left_out_of_that_step_alone():
    losses, nothing = [[1.0], [1.0]], [None] * 2
    part = Course("sft", "mix", 0, (0, 10), [rows(100, 0, 0, 0), rows(100, 0, 0, 100)], losses, nothing, nothing)
    del part.harmful[1]["row-1"]  # 25, then 2 of 3; were the prompt out of the course, a third and then 2 of 3
    (cell,) = resistance([part], 50)["cells"]
    assert cell["steps_to_break"]["mean"] == pytest.approx(6)
    assert cell["area"]["mean"] == pytest.approx((25 + 200 / 3) / 2)


# --- stability ----------------------------------------------------------------------------------------------------


def test_stability_by_hand():
    before = Capability(share(50), {"a": (20.0, 10), "b": (10.0, 10)}, share(0), {"arc": {"acc": (0.5, 0.01)}})
    after = Capability(share(40), {"a": (30.0, 10), "b": (20.0, 10)}, share(30), {"arc": {"acc": (0.4, 0.02)}})
    found = stability(before, {"sft": [after], "failed": []})
    (line,) = found["defenses"]
    assert found["before"]["accuracy"] == {"mean": 50.0, "ci": [*wilson(10, 20)]}
    assert found["before"]["perplexity"]["mean"] == pytest.approx(math.exp(1.5))
    assert line["perplexity"]["mean"] == pytest.approx(math.exp(2.5))
    assert line["perplexity_ratio"]["mean"] == pytest.approx(math.e)
    assert line["perplexity_ratio"]["ci"] == pytest.approx([math.e, math.e])  # both texts lost the same
    assert line["accuracy_change"]["mean"] == pytest.approx(-10)
    assert line["over_refusal"] == {"mean": 30.0, "ci": [*wilson(6, 20)]}
    assert line["over_refusal_change"]["mean"] == pytest.approx(30)
    low, high = line["benchmarks"]["arc"]["acc"]["ci"]
    assert (low, high) == pytest.approx((0.4 - 0.0392, 0.4 + 0.0392), abs=1e-4)


def test_stability_without_a_scored_task():
    model = Capability({}, {"a": (1.0, 2)}, share(10), {})
    line = stability(model, {"sft": [model, model]})["defenses"][0]
    assert line["accuracy"] is None and line["accuracy_change"] is None
    assert line["seeds"] == 2 and line["perplexity_ratio"]["mean"] == pytest.approx(1)


# --- generalisation -----------------------------------------------------------------------------------------------


def test_in_domain_against_cross_domain():
    def answers(column, percent):
        return {f"{column}/{key}": value for key, value in share(percent).items()}

    scores = {("a", "a"): 10, ("a", "b"): 60, ("b", "a"): 40, ("b", "b"): 20}
    transfers = [Transfer("sft", r, c, 0, answers(c, score)) for (r, c), score in scores.items()]
    seconds = [Second("sft", 0, share(30), share(70))]
    found = generalization(transfers, seconds, {"a": ("x", "y"), "b": ("z",)})
    (line,) = found["defenses"]
    assert [[cell["mean"] for cell in row] for row in line["matrix"]] == [[10, 60], [40, 20]]
    assert line["matrix"][0][1]["ci"] == [*wilson(12, 20)]
    assert line["in_domain"]["mean"] == pytest.approx(15)
    assert line["cross_domain"]["mean"] == pytest.approx(50)
    assert line["difference"]["mean"] == pytest.approx(35)
    low, high = line["difference"]["ci"]
    assert 0 < low < 35 < high
    assert (line["own_source"]["mean"], line["second_source"]["mean"]) == (30, 70)


def test_an_unknown_verdict_leaves_the_difference_alone():
    cells = {
        ("a", "a"): {"p": 100.0, "q": 0.0},
        ("b", "a"): {"q": 100.0},
        ("b", "b"): {"r": 0.0},
        ("a", "b"): {"r": 0.0},
    }
    transfers = [Transfer("sft", row, column, 0, found) for (row, column), found in cells.items()]
    (line,) = generalization(transfers, [], {"a": ("x",), "b": ("y",)})["defenses"]
    assert line["in_domain"]["mean"] == pytest.approx(100 / 3)  # p, q and r
    assert line["cross_domain"]["mean"] == pytest.approx(50)
    assert line["difference"]["mean"] == pytest.approx(50)  # q and r


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_matrix_of_nothing_but_safe_answers_has_intervals(seeds):
    transfers = [Transfer("sft", r, c, s, share(0)) for r in "ab" for c in "ab" for s in range(seeds)]
    (line,) = generalization(transfers, [], {"a": ("x",), "b": ("y",)})["defenses"]
    assert line["in_domain"] == line["cross_domain"] == {"mean": 0.0, "ci": [*wilson(0, 40)]}
    assert line["difference"]["ci"][0] < line["difference"]["mean"] == 0 < line["difference"]["ci"][1]


def test_a_failed_cell_of_the_matrix_leaves_the_others():
    transfers = [Transfer("sft", r, c, 0, share(20)) for r, c in (("a", "a"), ("b", "a"), ("b", "b"))]
    (line,) = generalization(transfers, [], {"a": ("x",), "b": ("z",)})["defenses"]
    assert line["matrix"][0][1] is None and line["matrix"][1][1]["mean"] == 20
    assert line["difference"]["mean"] == 0 and line["second_source"] is None


# --- trainability -------------------------------------------------------------------------------------------------


def test_steps_to_the_share_of_the_references_final_accuracy():
    reference = {0: [share(0), share(50), share(100)]}
    slower = {0: [share(0), share(25), share(60)]}
    found = trainability((0, 10, 20), reference, {"sft": slower, "other": {}}, 50)
    (line,) = found["defenses"]
    assert found["reference"]["steps_to_share"]["mean"] == pytest.approx(10)
    assert line["steps_to_share"]["mean"] == pytest.approx(10 + 10 * 25 / 35)
    assert line["ratio"]["mean"] == pytest.approx(1 + 25 / 35)
    assert line["ratio"]["ci"][0] < line["ratio"]["mean"]
    assert line["final_difference"]["mean"] == pytest.approx(-40)
    assert [point["accuracy"]["mean"] for point in line["curve"]] == [0, 25, 60]
    never = trainability((0, 10, 20), reference, {"sft": slower}, 95)["defenses"][0]
    assert never["ratio"] == {"mean": None, "ci": [None, None]} and never["steps_to_share"]["mean"] is None


def test_a_reference_that_learns_nothing_has_no_ratio():
    flat = {0: [share(50)] * 3, 1: [share(50)] * 3}
    (line,) = trainability((0, 10, 20), flat, {"sft": flat}, 95)["defenses"]
    assert line["ratio"] == {"mean": None, "ci": None} and line["seeds"] == 2


# --- what is missing ----------------------------------------------------------------------------------------------


def test_an_unknown_verdict_leaves_its_prompt_at_the_other_steps():
    known = [rows(0, 0, 0, 0), rows(100, 0, 0, 0), rows(100, 100, 100, 0)]
    without = [{k: v for k, v in step.items() if k != f"row-{i}"} for i, step in enumerate(known)]
    losses, nothing = [[1.0]] * 3, [None] * 3
    (cell,) = resistance([Course("sft", "mix", 0, (0, 10, 20), without, losses, nothing, nothing)], 50)["cells"]
    # Each step's score is that of the three prompts which have a verdict there.
    assert [at["harmful_score"]["mean"] for at in cell["curve"]] == pytest.approx([0, 100 / 3, 200 / 3])


def test_intervals_are_as_wide_as_the_known_verdicts_make_them():
    # 12 of 120 prompts have a verdict at the second step: what is told of it is what 12 can tell.
    many, few = share(0, 120), dict(list(share(50, 12).items()))
    steps, losses, nothing = (0, 10), [[1.0]] * 2, [None] * 2
    found, alone = (
        resistance([Course("sft", "mix", seed, steps, scores, losses, nothing, nothing) for seed in (0, 1)], 25)
        for scores in ([many, few], [dict(list(many.items())[:12]), few])
    )
    (cell,), (only,) = found["cells"], alone["cells"]
    assert cell["curve"][1]["harmful_score"]["ci"] == pytest.approx(only["curve"][1]["harmful_score"]["ci"], abs=3)
    width = [one["area"]["ci"][1] - one["area"]["ci"][0] for one in (cell, only, found["defenses"][0])]
    assert width[0] == pytest.approx(width[1], abs=6) and width[2] == width[0]
    early = [one["steps_to_break"]["ci"][0] for one in (cell, only)]
    assert early[0] == pytest.approx(early[1], abs=0.4) and early[0] < 4


def test_an_area_of_nothing_but_safe_answers_has_an_interval():
    (line,) = resistance([course((0, 0, 0), seed=seed) for seed in (0, 1)], 50)["defenses"]
    assert line["area"] == {"mean": 0.0, "ci": [*wilson(0, 20)]}


def test_an_attack_under_two_labels_counts_once_for_its_defence():
    one, same = (
        Course("sft", label, 0, (0, 10), [share(0), share(80)], [[1.0], [0.5]], [None] * 2, [None] * 2, "attack-1")
        for label in ("published", "fresh")
    )
    other = Course(
        "sft", "continue", 0, (0, 10), [share(0), share(0)], [[1.0], [1.0]], [None] * 2, [None] * 2, "attack-2"
    )
    (found,) = resistance([one, same, other], 50)["defenses"]
    assert (found["courses"], found["broken"]) == (2, 1)
    assert found["area"]["mean"] == pytest.approx((40 + 0) / 2)


def test_there_is_no_ratio_to_a_reference_that_learnt_nothing():
    nothing = {0: [share(0), share(0)]}
    (found,) = trainability((0, 10), nothing, {"sft": {0: [share(0), share(50)]}}, 95)["defenses"]
    assert found["ratio"] == {"mean": None, "ci": None}
