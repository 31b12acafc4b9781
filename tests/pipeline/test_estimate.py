"""The plan and the estimate: every stage once, passes as declared."""

import pytest

from boostershot.config import load_recipe
from boostershot.pipeline import estimate
from boostershot.pipeline.estimate import in_words, multiply_speed, planned, seconds_here
from boostershot.pipeline.grid import plan


def test_the_quickstart_plan_has_each_stage_once_and_counts_passes():
    recipe = load_recipe("quickstart", ["immunize.steps=10", "attacks.harmful-mix/continue.steps=5",
                                        "attacks.harmful-mix/continue.eval_steps=[0, 5]"])  # fmt: skip
    stages = list(planned(recipe))
    names = [stage.what.partition(":")[0] for stage in stages]
    assert names == ["data", "calibrate", "evaluate", *["immunize", "evaluate", "attack", "evaluate"] * 2]
    assert sum(stage.passes for stage in stages) == (10 + 5) + (30 + 5)


def test_a_fraction_of_a_pass_counts_and_is_told_readably():
    recipe = load_recipe("quickstart", ["defenses={t: {method: t_vaccine}}", "immunize.steps=1000"])
    (stage,) = [stage for stage in planned(recipe) if stage.what.startswith("immunize")]
    assert stage.passes == pytest.approx(2005)
    assert "1,000 steps of 2.005 passes over 8 rows" in stage.what
    assert f"{2005 + 20:,} forward-backward passes" in plan(recipe)[-1]


def test_the_plan_tells_steps_passes_and_tokens_and_the_scale():
    *stages, total = plan(load_recipe("quickstart"))
    assert all(line.endswith(" tokens") for line in stages)
    assert f"{len(stages)} stages, 168 optimiser steps, 296 forward-backward passes" in total
    small = plan(load_recipe("quickstart", ["scale=0.25"]))
    assert small[0] == "at scale 0.25 of the recipe's samples and steps"
    assert "42 optimiser steps, 74 forward-backward passes" in small[-1]


def test_an_attack_that_two_labels_share_is_planned_once():
    mix = "{method: harmful-mix, p: 0.2, n: 160, lr: 2e-4, steps: 20, adapter: %s}"
    attacks = ", ".join(f"{name}: {mix % name}" for name in ("published", "continue", "fresh"))
    recipe = load_recipe("quickstart", [f"attacks={{{attacks}}}"])
    told = [stage.what for stage in planned(recipe) if stage.what.startswith("attack")]
    assert len(told) == 4
    assert "published and fresh (fresh)" in told[0] and "published and continue (continue)" in told[2]


def test_tokens_in_words():
    assert [in_words(n) for n in (0, 940, 15_750, 3.2e6, 4.1e10)] == ["0", "940", "15.8 k", "3.2 M", "41 G"]


def test_a_control_that_is_not_judged_is_not_scored():
    recipe = load_recipe("quickstart", ["attacks.harmful-mix/continue.judged=false"])
    names = [stage.what.partition(":")[0] for stage in planned(recipe)]
    assert names.count("evaluate") == 3


def test_the_estimate_grows_with_the_model_and_the_steps():
    short, long = (load_recipe("quickstart", [f"immunize.steps={steps}"]) for steps in (10, 1000))
    assert multiply_speed() > 0
    assert seconds_here(long, 10**8) > 3 * seconds_here(short, 10**8)
    assert seconds_here(short, 10**9) > 3 * seconds_here(short, 10**8)


@pytest.mark.parametrize(("processes", "threads", "faster"), [(2, 1, 2), (4, 1, 4), (8, 2, 2), (8, 8, 1)])
def test_processes_share_the_work_as_far_as_there_are_cores(monkeypatch, processes, threads, faster):
    monkeypatch.setattr(estimate, "multiply_speed", lambda: 1e11)
    monkeypatch.setattr(estimate.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(estimate.torch, "get_num_threads", lambda: threads)
    one, many = (load_recipe("quickstart", [f"runtime.processes={n}"]) for n in (1, processes))
    assert seconds_here(one, 10**8) == pytest.approx(faster * seconds_here(many, 10**8))


def test_the_properties_are_in_the_plan_and_can_be_left_out():
    recipe = load_recipe("properties")
    told = plan(recipe, properties=True)
    without = plan(recipe)
    added = told[len(without) - 1 : -1]
    assert told[: len(without) - 1] == without[:-1]
    assert sum("2 x immunize: generalization" in line for line in added) == 2  # two groups, two defences
    assert sum("4 x attack: generalization" in line for line in added) == 2
    assert sum("3 x attack: trainability" in line and "p 0," in line for line in added) == 1
    assert sum("perplexity and over-refusal of 3 models" in line for line in added) == 1
    assert sum("perplexity of 6 attacked models" in line for line in added) == 1
    fewer = load_recipe("properties", ["properties.generalization=null", "properties.trainability=null"])
    assert [line.partition(":")[0] for line in plan(fewer, properties=True)[len(without) - 1 : -1]] == [
        "stability",
        "resistance",
    ]
    assert seconds_here(recipe, 10**8, properties=True) > 2 * seconds_here(recipe, 10**8)


def test_scale_shortens_the_properties_too():
    parts = load_recipe("properties", ["scale=0.25", "properties.stability.n_safe=20"]).scaled().properties
    assert (parts.generalization.n, parts.trainability.steps, parts.stability.n_safe) == (10, 6, 5)
    assert parts.stability.n_texts is None and parts.trainability.points == 4


def test_reinforcement_counts_what_is_written_judged_and_trained_on():
    harmful, benign = (
        stage
        for name in ("grpo", "grpo-task")
        for stage in planned(load_recipe(name))
        if stage.what.startswith("attack: sft")
    )
    assert harmful.what.partition("), ")[2] == "24 steps of 16 answers, lr 0.0002, 48 prompts"
    assert benign.what.partition("), ")[2] == "12 steps of 16 answers, lr 0.0002, 48 prompts"
    assert (harmful.passes, benign.passes) == (24, 12)
    assert harmful.tokens == 24 * 16 * (22 + 16) * 4 and benign.tokens == 12 * 16 * (50 + 16) * 2


def test_a_sweep_counts_its_honest_users():
    recipe = load_recipe("quickstart", {"sweep.attacker": {"trials": 4, "steps": 50, "samples": 200}})
    stages = [stage for stage in planned(recipe, sweep=True) if "sft" in stage.what]
    (honest,) = [stage for stage in stages if "honest user" in stage.what]
    assert honest.steps == 50 and "p 0, n 200" in honest.what and "(continue)" in honest.what
    assert any("evaluate: attacker of sft, 9 models" in stage.what for stage in stages)  # 4 trials, 3 again, 2 honest
