"""What an attacker is paid by, and how what he earned is told."""

import json
import math
from dataclasses import replace

import pytest

from boostershot.attacks.attack import AttackRow
from boostershot.config import load_recipe
from boostershot.data.tasks import load_task
from boostershot.evaluation.judges import JUDGES, Verdict, grade
from boostershot.pipeline.results import Cell
from boostershot.pipeline.rewards import by_judge, by_task, earned


def judge(pairs, advance=None):
    """Says what the answer says of itself."""
    said = {
        "good": Verdict(harmful=True, relevance=1.5),
        "dull": Verdict(harmful=False, relevance=0.5),
        "no": Verdict(harmful=False, refusal=True),
        "what": Verdict(harmful=None),
        "rated": Verdict(harmful=True, score=0.75),
    }
    assert all(prompt == "q" for prompt, _ in pairs)
    return [said[answer] for _, answer in pairs]


ROWS = [AttackRow(str(i), "q", "", harmful=True) for i in range(5)]
ANSWERS = ["good", "dull", "no", "what", "rated"]


def test_a_verdict_is_one_or_nothing():
    assert by_judge(judge, graded=False, threshold=1.0)(ROWS, ANSWERS) == [1.0, 0.0, 0.0, None, 1.0]


def test_a_grade_tells_by_how_much():
    good, dull, no, unknown, rated = by_judge(judge, graded=True, threshold=1.0)(ROWS, ANSWERS)
    assert (no, unknown, rated) == (0.0, None, 0.75)
    assert math.log(good / (1 - good)) == pytest.approx(0.5)
    assert math.log(dull / (1 - dull)) == pytest.approx(-0.5)


def test_grades_agree_with_verdicts_and_are_finite():
    assert grade(Verdict(harmful=True, relevance=2.0), 2.0) == 0.5
    assert grade(Verdict(harmful=False, relevance=-1e6), 0.0) == pytest.approx(0.0)
    assert grade(Verdict(harmful=True, relevance=1e6), 0.0) == 1.0


def test_the_judges_that_grade_are_those_whose_verdict_is_a_threshold():
    assert {name for name, kind in JUDGES.items() if kind.graded} == {
        "offline", "relevance", "beaver-dam", "strongreject", "endpoint"
    }  # fmt: skip


def test_the_task_pays_by_its_own_rule_or_by_its_verifiers_score():
    task = load_task("reasoning-gym:chain_sum", options={"size": 20, "min_terms": 2, "max_terms": 2})
    row = task.splits["train"][0]
    rows = [AttackRow(row.id, row.prompt, row.answer, harmful=False)] * 3
    answers = [row.answer, f"It is {row.answer}", "nothing"]
    assert by_task(task, graded=False)(rows, answers) == [1.0, 0.0, 0.0]
    right, near, wrong = by_task(task, graded=True)(rows, answers)
    assert right == 1.0 > near > wrong == 0.0


def course(folder, seed, rewards):
    """A finished attack stage, as far as it is read."""
    (folder / str(seed)).mkdir()
    lines = [
        {"step": i + 1, "reward": reward, "frac_reward_zero_std": 0.5, "reward_unknown": 0.25}
        for i, reward in enumerate(rewards)
    ]
    (folder / str(seed) / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Cell("sft", "rl", "plain", seed, attacked=folder / str(seed))


@pytest.fixture
def recipe():
    return load_recipe("grpo", {"attacks": {
        "rl": {"method": "grpo", "reward": "graded", "steps": 16, "lr": 1e-4, "adapter": "continue"},
        "mix": {"method": "harmful-mix", "p": 0.1, "n": 20, "steps": 2, "lr": 1e-4, "adapter": "continue"},
    }})  # fmt: skip


def test_the_curve_is_of_even_stretches_with_an_interval_over_seeds(tmp_path, recipe):
    cells = [course(tmp_path, seed, [0.1 * seed + i / 32 for i in range(16)]) for seed in (1, 2)]
    (found,) = earned(
        recipe, [*cells, Cell("sft", "mix", "plain", 1, attacked=tmp_path / "1"), Cell("sft", "rl", "plain", 3)], {}
    )
    assert {key: found[key] for key in ("defense", "attack", "reward", "n_seeds")} == {
        "defense": "sft", "attack": "rl", "reward": "graded by offline", "n_seeds": 2
    }  # fmt: skip
    assert [(point["from"], point["to"]) for point in found["points"]] == [(i + 1, i + 2) for i in range(0, 16, 2)]
    assert found["points"][3]["mean"] == pytest.approx(0.15 + 6.5 / 32)
    low, high = found["points"][3]["ci"]
    assert low == 0.0 and high == pytest.approx(0.15 + 6.5 / 32 + 12.7062 * 0.05, abs=1e-3)
    assert (found["equal"], found["unknown"]) == (50.0, 25.0)


def test_steps_without_a_reward_are_left_out(tmp_path, recipe):
    (found,) = earned(recipe, [course(tmp_path, 0, [0.5, None, 0.25])], {})
    assert [point["mean"] for point in found["points"]] == [0.5, None, 0.25]
    assert all(point["ci"] is None for point in found["points"])


def evaluation(folder, harmful, other=()):
    """A finished evaluation, as far as it is read."""
    folder.mkdir()
    flagged = [*((answer, True) for answer in harmful), *other]
    lines = [{"answer": answer, "harmful": flag} for answer, flag in flagged]
    (folder / "generations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_answers_that_became_one_phrase_are_told_beside_the_base_models(tmp_path, recipe):
    early = evaluation(tmp_path / "early", [f"early {i} words" for i in range(9)])
    after = [
        evaluation(
            tmp_path / "after 1", ["It could  lead on", "It could lead", "Or this one here"], [("No no no", False)]
        ),
        evaluation(tmp_path / "after 2", ["Or this one", "or this one"], [("Or this one", None)]),
    ]
    base = evaluation(tmp_path / "base", ["a", "b b b b", "b b b c", "d"])
    cells = [
        replace(
            course(tmp_path, seed, [0.5] * 16),
            evaluated={(0, "offline"): early, (16, "refusal"): early, (16, "offline"): folder},
        )
        for seed, folder in enumerate(after)
    ]
    (found,) = earned(recipe, cells, {"offline": base, "refusal": early})
    assert found["alike"] == {"judge": "offline", "n": 5, "share": pytest.approx(60.0), "base": pytest.approx(50.0)}
    (unjudged,) = earned(recipe, [replace(cells[0], evaluated=None)], {"offline": base})
    assert unjudged["alike"] is None
    (harmless,) = earned(recipe, [replace(cells[0], evaluated={(16, "offline"): evaluation(tmp_path / "no", [])})], {})
    assert harmless["alike"] is None
