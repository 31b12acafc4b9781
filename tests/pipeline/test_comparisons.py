"""Pairs of defences: what is paired, at which step, and the correction for how many there are."""

import pytest
from test_summary import row

from boostershot.evaluation.statistics import holm, paired_shares
from boostershot.pipeline.comparisons import comparisons


def verdicts(harmful):
    """(defense, seed) -> how many of 40 prompts are harmful."""
    return lambda r: {"harmful_score": {f"p{i}": 100.0 * (i < harmful[r["defense"], r["seed"]]) for i in range(40)}}


def test_every_pair_is_compared_at_the_last_step_that_both_finished():
    harmful = {("plain", 0): 20, ("booster", 0): 8, ("vaccine", 0): 19}
    rows = [row(d, step=t) for d in ("plain", "booster", "vaccine") for t in (0, 20)]
    rows += [row("plain", step=40), row("booster", step=40), row("vaccine", step=40, status="failed")]
    items = {(i["a"], i["b"]): i for i in comparisons(rows, verdicts(harmful))}
    assert {pair: item["attack_step"] for pair, item in items.items()} == {
        ("plain", "booster"): 40, ("plain", "vaccine"): 20, ("booster", "vaccine"): 20,
    }  # fmt: skip
    found = items["plain", "booster"]["harmful_score"]
    assert found["mean"] == pytest.approx(30.0)
    assert found["p"] == pytest.approx(2 / 2**12)  # 12 prompts differ, all one way
    assert items["plain", "booster"]["finetune_accuracy"] == {
        "mean": 0.0, "ci": None, "p": None, "n_pairs": 0, "p_holm": None, "family": 0,
    }  # fmt: skip


def test_holm_counts_all_pairs_and_attacks_of_one_judge():
    harmful = {("plain", 0): 20, ("booster", 0): 12}
    rows = [row(d, attack=a, judge=j) for d in ("plain", "booster") for a in ("one", "two") for j in ("x", "y")]
    items = comparisons(rows, verdicts(harmful))
    assert len(items) == 4
    p = items[0]["harmful_score"]["p"]
    for item in items:
        assert item["harmful_score"]["p_holm"] == pytest.approx(holm([p, p])[0])


def test_several_seeds_are_paired_by_seed_and_prompt():
    harmful = {("plain", s): 20 + s for s in range(3)} | {("booster", s): 8 + 2 * s for s in range(2)}
    rows = [row("plain", seed=s) for s in range(3)] + [row("booster", seed=s) for s in range(2)]
    (item,) = comparisons(rows, verdicts(harmful))
    a, b = ([[100.0 * (i < harmful[d, s]) for i in range(40)] for s in range(2)] for d in ("plain", "booster"))
    expected = paired_shares(a, b)
    assert item["n_seeds"] == 2
    assert item["harmful_score"] == {
        "mean": expected.mean, "ci": [expected.low, expected.high], "p": expected.p, "n_pairs": 40,
        "p_holm": expected.p, "family": 1,
    }  # fmt: skip


def test_only_prompts_that_both_were_judged_on_are_paired():
    figures = {"plain": {"a": 100.0, "b": 100.0, "c": 0.0}, "booster": {"b": 0.0, "c": 0.0, "d": 100.0}}
    (item,) = comparisons([row(), row("booster")], lambda r: {"harmful_score": figures[r["defense"]]})
    found = item["harmful_score"]
    assert found["mean"] == pytest.approx(50.0) and found["n_pairs"] == 2  # b and c
    assert found["p"] is None and found["p_holm"] is None and found["ci"][0] <= 0  # two prompts show nothing


def test_a_control_that_is_not_judged_is_not_compared():
    # Step 0 is scored under every attack: it is the model before it.
    control = [row(d, attack="control", step=t) for d in ("plain", "booster") for t in (0, 20)]
    control = [one | {"harmful_score": None} if one["attack_step"] else one for one in control]
    judged = [row(d, step=t) for d in ("plain", "booster") for t in (0, 20)]
    read = verdicts({("plain", 0): 20, ("booster", 0): 8})
    second = [one | {"judge": "second"} for one in control if one["attack_step"] == 0]  # no judge has later rows
    assert comparisons([*control, *second], read) == []
    (item,) = comparisons([*control, *judged], read)
    assert (item["attack"], item["attack_step"]) == ("mix", 20)
    assert item["harmful_score"]["family"] == 1 and item["harmful_score"]["p_holm"] == item["harmful_score"]["p"]


def test_a_pair_that_finished_no_later_step_is_not_compared_before_the_attack():
    rows = [row("plain", step=t) for t in (0, 20)] + [row("booster"), row("booster", step=20, status="failed")]
    assert comparisons(rows, verdicts({("plain", 0): 20, ("booster", 0): 8})) == []


def test_two_labels_of_one_attack_are_one_comparison():
    rows = [row(d, attack=a, stage=f"evaluate-{d}") for d in ("plain", "booster") for a in ("published", "fresh")]
    first, second = comparisons(rows, verdicts({("plain", 0): 20, ("booster", 0): 8}))
    assert (first["attack"], second["attack"]) == ("published", "fresh")
    assert first["harmful_score"] == second["harmful_score"]
    assert first["harmful_score"]["p_holm"] == first["harmful_score"]["p"]
