"""The table at the end of a run shows every figure whole, from 60 columns on."""

import io
import json
import re

import pytest
from rich.console import Console

from boostershot.report import results_table
from conftest import UNTRAINED


def printed(results, width):
    out = io.StringIO()
    Console(file=out, width=width, no_color=True).print(results_table(results))
    return out.getvalue()


def figures(results):
    """What must stand in the table: the last step's figures of each attack and defense."""
    for item in results["summary"]:
        if item["attack_step"] == 40:
            for name in ("harmful_score", "finetune_accuracy"):
                low, high = item[name]["ci"]
                yield f"{item[name]['mean']:.1f} [{low:.0f}, {high:.0f}]"
            yield f" {item['harmful_loss']['mean']:.2f} "


@pytest.mark.parametrize("width", [60, 100])
def test_no_digit_is_cut(grid_run, width):
    results = json.loads((grid_run / "results.json").read_text())
    out = printed(results, width)
    for text in figures(results):
        assert text in out
    assert "…" not in out
    assert max(len(line) for line in out.splitlines()) <= width
    for label in ("harmful-mix/continue", "harmful-only/continue", "SFT", "Booster", "after 40 steps"):
        assert label in out


def test_failures_and_the_base_model_are_told(grid_run):
    out = printed(json.loads((grid_run / "results.json").read_text()), 100)
    assert "failed: Booster, harmful-mix/fresh, seed 2, step 40: the loss is not finite" in out
    assert "Base model, not aligned: HS 96.0" in out


def test_long_labels_and_full_scores_leave_the_figures_whole(make_run):
    folder = make_run(defenses={"sft": "sft", "booster-with-a-long-label": "booster"}, seeds=(0,))
    results = json.loads((folder / "results.json").read_text())
    for item in results["summary"]:
        item["harmful_score"] = item["finetune_accuracy"] = {"mean": 100.0, "ci": [97.5, 100.0]}
        item["degenerate_share"] = {"mean": 100.0, "ci": [97.5, 100.0]}
    out = printed(results, 60)
    assert out.count("100 [98, 100]") == 2 * 2 * 4 and "100.0" in out and "…" not in out


def test_a_task_without_a_rule_shows_its_log_likelihood(small_run):
    results = json.loads((small_run / "results.json").read_text())
    for item in results["summary"]:
        item["finetune_accuracy"], item["task_log_likelihood"] = None, {"mean": -1.234, "ci": [-1.5, -1.04]}
    out = printed(results, 60)
    assert "−1.23 [−1.5, −1.0]" in out and "task log p" in out and "FA %" not in out and "…" not in out


def test_a_win_rate_stands_in_the_log_likelihoods_place(small_run):
    results = json.loads((small_run / "results.json").read_text())
    for item in results["summary"]:
        item["finetune_accuracy"], item["task_log_likelihood"] = None, {"mean": -1.234, "ci": [-1.5, -1.04]}
        item["win_rate"] = {"mean": 12.5, "ci": [8.0, 17.0]}
    out = printed(results, 60)
    assert "12.5 [8, 17]" in out and "win %" in out and "task log p" not in out


def test_an_attack_that_failed_as_a_whole_is_not_hidden(small_run):
    results = json.loads((small_run / "results.json").read_text())
    results["summary"] = []
    results["rows"] = [row | {"status": "failed", "error": "out of memory"} for row in results["rows"]]
    out = printed(results, 60)
    assert "harmful-mix/continue: no cell was finished" in out
    assert " ".join(out.split()).count("out of memory") == 6


def test_other_judges_and_warnings_stand_below_the_table(make_run):
    folder = make_run(seeds=(0,), attacks={"mix": ("continue", 0.2)}, judges={"second": 0.1})
    results = json.loads((folder / "results.json").read_text())
    out = " ".join(printed(results, 60).split())
    ends = {i["defense"]: i for i in results["summary"] if i["attack_step"] == 40 and i["judge"] == "second"}
    scores = {d: f"{i['harmful_score']['mean']:.1f}" for d, i in ends.items()}
    assert f"HS % by second: SFT {scores['sft']} [" in out and f"Booster {scores['booster']} [" in out
    assert "second gave no readable verdict on 21 of 1050 answers in 7 cells" in out
    assert "Degenerate answers exceed the base model’s" in out


def test_attacks_without_training_share_one_table_with_plain_questions(make_run):
    trained = {"mix": ("continue", 0.2)}
    folder = make_run(seeds=(0,), attacks=trained | UNTRAINED, judges={"second": 0.1})
    results = json.loads((folder / "results.json").read_text())
    out = printed(results, 60)
    assert max(len(line) for line in out.splitlines()) <= 60 and "…" not in out
    assert out.count("harmful rows, after 40 steps") == 1 and "few-shot after 0 steps" not in " ".join(out.split())
    table = out[out.index("Without training") :]
    found = re.findall(r"^(no attack|prefill|few-shot)? *(SFT|Booster) +([\d.]+) \[", table, re.MULTILINE)
    scores = {
        (item["attack"], item["defense"]): f"{item['harmful_score']['mean']:.1f}"
        for item in results["summary"]
        if item["attack_step"] == 0 and item["judge"] == "offline"
    }
    expected = [
        ("" if defense == "booster" else label, {"sft": "SFT", "booster": "Booster"}[defense], scores[attack, defense])
        for label, attack in (("no attack", "mix"), ("prefill", "prefill"), ("few-shot", "few-shot"))
        for defense in ("sft", "booster")
    ]
    assert found == expected
    assert "prefill: HS % by second: SFT" in " ".join(table.split())


def test_an_attack_without_training_that_failed_is_not_hidden(make_run):
    results = json.loads(
        (make_run(seeds=(0,), attacks={"mix": ("continue", 0.2)} | UNTRAINED) / "results.json").read_text()
    )
    results["summary"] = [item for item in results["summary"] if item["attack"] != "prefill"]
    out = printed(results, 60)
    assert "prefill: no cell was finished" in out and "few-shot: no cell" not in out


def test_what_an_attack_was_paid_stands_below_its_table(small_run):
    results = json.loads((small_run / "results.json").read_text())
    points = [{"from": 1, "to": 1, "mean": 0.25, "ci": None}, {"from": 2, "to": 40, "mean": 0.5, "ci": None}]
    reward = {"defense": "sft", "reward": "verdict by offline", "points": points, "equal": 25.0, "unknown": 2.0}
    results["rewards"] = [reward | {"attack": "harmful-mix/continue"}, reward | {"attack": "another"}]
    out = " ".join(printed(results, 60).split())
    says = "SFT 0.50 in steps 2 to 40 (from 0.25 in step 1), all rewards equal in 25% of the groups, no reward for 2% "
    says += "of the answers."
    assert out.count(f"Reward (verdict by offline), mean of the answers drawn: {says}") == 1
    assert "same three words" not in out


def test_an_attack_paid_by_its_own_judge_is_warned_of(small_run):
    results = json.loads((small_run / "results.json").read_text())
    point = {"from": 1, "to": 40, "mean": 0.5, "ci": None}
    reward = {"reward": "verdict by offline", "points": [point], "equal": 25.0, "unknown": 0.0}
    alike = {"judge": "offline", "n": 63, "share": 61.9, "base": 11.1}
    results["rewards"] = [
        reward | {"attack": "rl", "defense": "sft", "alike": alike},
        reward | {"attack": "rl", "defense": "booster", "alike": alike | {"n": 7, "share": 28.6}},
        reward | {"attack": "rl", "defense": "vaccine", "alike": None},
        reward | {"attack": "rl-task", "defense": "sft", "alike": None},
    ]
    out = " ".join(printed(results, 60).split())
    shares = "62% of SFT’s 63 and 29% of Booster’s 7 begin with the same three words (base model: 11%)."
    assert "rl is paid by offline: what its harmful score counts may be what it mistakes for harm." in out
    assert out.count(shares) == 1 and out.count("is paid by") == 1
