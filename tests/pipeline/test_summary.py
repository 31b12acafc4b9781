"""Figures over seeds, paired differences and the paper's observations, against numbers worked out by hand."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from boostershot.evaluation.statistics import share_interval, wilson
from boostershot.pipeline.summary import observations, read_verdicts, relative_costs, summarise

METHODS = {"plain": "sft", "booster": "booster"}


def row(defense="plain", attack="mix", seed=0, step=0, p=0.2, *, hs=10.0, fa=50.0, loss=3.0, **more):
    return {
        "defense": defense, "attack": attack, "adapter": "continue", "p": p, "asked": "plain", "template": None,
        "seed": seed, "attack_step": step,
        "judge": "offline", "task": "sums", "split": "test", "status": "done", "stage": None,
        "harmful_score": hs, "harmful_score_ci": [hs - 1, hs + 1], "finetune_accuracy": fa,
        "finetune_accuracy_ci": [fa - 2, fa + 2], "harmful_loss": loss,
        "harmful_loss_ci": [loss - 0.1, loss + 0.1],
        "harmful_loss_own": 2.5, "degenerate_share": 4.0, "n_harmful": 50, "n_task": 50, "win_rate": None,
    } | more  # fmt: skip


def nothing(_row):
    return None


def test_one_seed_keeps_its_own_interval():
    (item,) = summarise([row(hs=12.0)], METHODS, nothing)
    assert item["n_seeds"] == 1
    assert item["harmful_score"] == {"mean": 12.0, "ci": [11.0, 13.0]}
    assert item["degenerate_share"]["ci"] == pytest.approx(wilson(2, 50))
    assert item["harmful_loss_own"] == {"mean": 2.5, "ci": None}
    assert item["minus_sft"] is None


def test_seeds_aggregate_over_seeds_and_prompts():
    figures = {s: {f"p{i}": 100.0 * (i < n) for i in range(50)} for s, n in enumerate([0, 0, 15])}
    rows = [row(seed=s, hs=hs) for s, hs in enumerate([0.0, 0.0, 30.0])]
    (item,) = summarise(rows, METHODS, lambda r: {"harmful_score": figures[r["seed"]]})
    by_seed = [list(figures[s].values()) for s in range(3)]
    assert item["harmful_score"] == {"mean": 10.0, "ci": list(share_interval(by_seed)[1:])}
    assert item["harmful_score"]["ci"][0] == 0 and item["harmful_score"]["ci"][1] > 50  # two of three seeds have none


def test_without_verdicts_seeds_aggregate_with_a_t_interval_cut_at_the_ends():
    (item,) = summarise([row(seed=s, hs=hs) for s, hs in enumerate([0.0, 0.0, 30.0])], METHODS, nothing)
    half = stats.t.ppf(0.975, 2) * stats.tstd([0, 0, 30]) / 3**0.5
    assert item["harmful_score"]["mean"] == pytest.approx(10.0)
    assert item["harmful_score"]["ci"] == pytest.approx([0.0, 10 + half])


def test_an_unknown_verdict_changes_an_interval_by_no_more_than_its_prompt():
    flags = {s: [i < n for i in range(150)] for s, n in enumerate([50, 52, 54])}
    figures = {s: {f"p{i}": 100.0 * flag for i, flag in enumerate(found)} for s, found in flags.items()}
    every = summarise([row(seed=s, hs=100 * sum(flags[s]) / 150) for s in flags], METHODS, _harmful(figures))
    del figures[1]["p0"]
    shares = {s: sum(found.values()) / len(found) for s, found in figures.items()}
    (item,) = summarise([row(seed=s, hs=share) for s, share in shares.items()], METHODS, _harmful(figures))
    assert item["harmful_score"]["mean"] == pytest.approx(sum(shares.values()) / 3)  # of what the rows tell
    assert item["harmful_score"]["ci"] == pytest.approx(every[0]["harmful_score"]["ci"], abs=0.7)


@pytest.mark.parametrize("figure", ["harmful_score", "win_rate"])
def test_seeds_that_agree_have_an_interval_with_an_unknown_verdict_too(figure):
    figures = {s: {f"p{i}": 0.0 for i in range(40) if i != s} for s in range(3)}
    rows = [row(seed=s, **({"hs": 0.0} if figure == "harmful_score" else {figure: 0.0})) for s in figures]
    (item,) = summarise(rows, METHODS, lambda r: {figure: figures[r["seed"]]})
    assert item[figure] == {"mean": 0.0, "ci": list(wilson(0, 39))}


def _harmful(figures):
    return lambda r: {"harmful_score": figures[r["seed"]]}


def test_a_log_likelihood_is_below_zero_and_so_is_its_interval():
    values = [-1.0, -1.5, -2.0]
    (item,) = summarise([row(seed=s, task_log_likelihood=v) for s, v in enumerate(values)], METHODS, nothing)
    half = stats.t.ppf(0.975, 2) * stats.tstd(values) / 3**0.5
    assert item["task_log_likelihood"]["mean"] == pytest.approx(-1.5)
    assert item["task_log_likelihood"]["ci"] == pytest.approx([-1.5 - half, -1.5 + half])
    assert summarise([row()], METHODS, nothing)[0]["task_log_likelihood"] is None


def test_differences_pair_the_seeds_and_leave_out_a_seed_without_partner():
    rows = [row(seed=s, hs=hs) for s, hs in enumerate([60.0, 70.0, 90.0])]
    rows += [row("booster", seed=s, hs=hs) for s, hs in enumerate([30.0, 42.0])]
    rows.append(row("booster", seed=2, status="failed", hs=0.0))
    items = {item["defense"]: item for item in summarise(rows, METHODS, nothing)}
    assert items["plain"]["minus_sft"] is None
    assert items["booster"]["n_seeds"] == 2
    half = stats.t.ppf(0.975, 1) * 1.0
    assert items["booster"]["minus_sft"]["harmful_score"]["mean"] == pytest.approx(-29.0)
    assert items["booster"]["minus_sft"]["harmful_score"]["ci"] == pytest.approx([-29 - half, -29 + half])


def test_one_seed_pairs_the_prompts():
    sft = {f"p{i}": 100.0 * (i < 30) for i in range(50)}
    ours = {f"p{i}": 100.0 * (i < 10) for i in range(50)}
    figures = {"plain": {"harmful_score": sft}, "booster": {"harmful_score": ours}}
    rows = [row(hs=60.0), row("booster", hs=20.0)]
    minus = summarise(rows, METHODS, lambda r: figures[r["defense"]])[1]["minus_sft"]
    low, high = minus["harmful_score"]["ci"]
    assert minus["harmful_score"]["mean"] == -40.0
    # 20 of 50 prompts differ, all the same way: the share that differs has this exact binomial spread.
    assert (-high, -low) == pytest.approx(tuple(100 * stats.binom(50, 0.4).ppf([0.025, 0.975]) / 50), abs=2.01)
    assert minus["harmful_score"]["p"] == pytest.approx(2 * 0.5**20)  # all 20 go one way
    assert minus["finetune_accuracy"] == {"mean": 0.0, "ci": None, "p": None, "n_pairs": 0}
    assert minus["harmful_score"]["n_pairs"] == 50


def test_prompts_that_differ_are_not_paired():
    figures = {"plain": {"harmful_score": {"a": 100.0}}, "booster": {"harmful_score": {"b": 0.0}}}
    items = summarise([row(), row("booster")], METHODS, lambda r: figures[r["defense"]])
    assert items[1]["minus_sft"]["harmful_score"]["ci"] is None


def test_a_loss_of_few_prompts_is_paired_by_seed_alone():
    figures = {"plain": {"harmful_loss": {"a": 3.0}}, "booster": {"harmful_loss": {"a": 2.0}}}
    items = summarise([row(), row("booster", loss=2.0)], METHODS, lambda r: figures[r["defense"]])
    assert items[1]["minus_sft"]["harmful_loss"] == {"mean": -1.0, "ci": None, "p": None, "n_pairs": 0}


def test_without_sft_there_is_nothing_to_subtract():
    (item,) = summarise([row("booster")], {"booster": "booster"}, nothing)
    assert item["minus_sft"] is None


@given(st.permutations([(d, s, t) for d in METHODS for s in (0, 1) for t in (0, 20)]))
def test_the_order_of_rows_does_not_change_a_figure(order):
    rows = [row(d, seed=s, step=t, hs=10.0 + 3 * s + t + 5 * (d == "plain")) for d, s, t in order]
    items = {(i["defense"], i["attack_step"]): i for i in summarise(rows, METHODS, nothing)}
    assert items["booster", 20]["harmful_score"]["mean"] == pytest.approx(31.5)
    assert items["booster", 20]["minus_sft"]["harmful_score"]["mean"] == pytest.approx(-5.0)


def test_verdicts_are_read_from_the_stage_folder(tmp_path):
    (tmp_path / "evaluate-1").mkdir()
    lines = [
        {"id": "a", "harmful": True, "degenerate": False},
        {"id": "b", "harmful": False, "degenerate": True},
    ]
    (tmp_path / "evaluate-1" / "verdicts.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    (tmp_path / "evaluate-1" / "task.jsonl").write_text('{"id": "t", "correct": true, "answer": "4"}\n')
    assert read_verdicts(tmp_path, row(stage="evaluate-1")) == {
        "harmful_score": {"a": 100.0, "b": 0.0},
        "degenerate_share": {"a": 0.0, "b": 100.0},
        "finetune_accuracy": {"t": 100.0},
    }
    assert read_verdicts(tmp_path, row(stage=None)) is None


def test_costs_are_multiples_of_sft_with_the_same_seed():
    def cost(defense, seed, seconds, memory, passes, steps=40):
        return {
            "defense": defense,
            "seed": seed,
            "seconds_per_step": seconds,
            "peak_memory_bytes": memory,
            "passes_per_step": passes,
            "steps": steps,
        }

    costs = [
        cost("plain", 0, 2.0, 100, 1),
        cost("booster", 0, 5.0, None, 3),
        cost("booster", 1, 5.0, 100, 3),
        cost("distilled", 0, 3.0, 100, 1.5, steps=60),
    ]
    relative = [item["relative_to_sft"] for item in relative_costs(costs, METHODS)]
    assert relative[0] == {"time": 1.0, "memory": 1.0, "passes": 1.0}
    assert relative[1] == {"time": 2.5, "memory": None, "passes": 3.0}
    assert relative[2] is None
    assert relative[3] == {"time": 2.25, "memory": 1.0, "passes": 2.25}  # of the whole training


def course(defense, attack, p, losses, seed=0, own=None):
    return [
        row(defense, attack, seed, step, p, loss=loss, harmful_loss_own=own and own[i])
        for i, (step, loss) in enumerate(zip((0, 20, 40), losses, strict=True))
    ]


def test_observations_that_hold():
    rows = []
    for seed, noise in enumerate((0.0, 0.02)):
        rows += course("plain", "benign", 0.0, [4.0, 3.95, 3.9 + noise], seed)
        rows += course("plain", "harmful", 1.0, [4.0, 2.5, 2.0 + noise], seed, own=[3.9, 2.2, 1.5 + noise])
        rows += course("plain", "mix", 0.2, [4.0, 3.2, 3.0 + noise], seed, own=[3.9, 3.0, 2.8])
        rows += course("booster", "mix", 0.2, [3.5, 3.3, 3.2 + noise], seed, own=[3.4, 3.2, 3.1])
    fast, follows, lower = observations(rows, METHODS)
    assert [item["holds"] for item in (fast, follows, lower)] == [True, True, True]
    assert "fell by 1.99 [1.86, 2.12]" in fast["text"] and "75% of the fall" in fast["text"]
    assert "2.39 [2.26, 2.52] nats a token on the attacker's own rows" in follows["text"]
    assert "3.50 for Booster and 4.00 for SFT" in lower["text"] and "0.29 against 0.99" in lower["text"]


def test_observations_that_do_not_hold():
    rows = course("plain", "benign", 0.0, [4.0, 3.0, 2.5])
    rows += course("plain", "harmful", 1.0, [4.0, 2.5, 2.0], own=[2.0, 2.1, 2.2])
    rows += course("plain", "mix", 0.2, [4.0, 3.2, 3.0])
    rows += course("booster", "mix", 0.2, [4.5, 3.3, 3.2])
    assert [item["holds"] for item in observations(rows, METHODS)] == [False, False, False]


def test_observations_are_null_where_the_attack_was_not_run():
    rows = course("plain", "mix", 0.2, [4.0, 3.2, 3.0], own=[3.9, 3.0, 2.8])
    fast, follows, lower = observations(rows, METHODS)
    assert (fast["holds"], follows["holds"], lower["holds"]) == (None, True, None)
    assert "one seed" in follows["text"]
    assert [item["holds"] for item in observations([], METHODS)] == [None, None, None]


def test_each_adapter_mode_is_judged_for_itself():
    rows = course("plain", "mix", 0.2, [4.0, 3.2, 3.0], own=[3.9, 3.0, 2.8])
    rows += [one | {"adapter": "fresh"} for one in course("plain", "mix/fresh", 0.2, [4.0, 4.1, 4.2], own=[4, 4, 4])]
    items = observations(rows, METHODS)
    assert [item["holds"] for item in items if "follows" in item["claim"]] == [True, False]
    assert items[1]["claim"].endswith("(continue adapter)") and items[4]["claim"].endswith("(fresh adapter)")
