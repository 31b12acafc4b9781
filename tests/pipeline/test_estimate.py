"""The plan and the estimate: every stage once, passes as declared."""

from boostershot.config import load_recipe
from boostershot.pipeline.estimate import multiply_speed, planned, seconds_here


def test_the_quickstart_plan_has_each_stage_once_and_counts_passes():
    recipe = load_recipe("quickstart", ["immunize.steps=10", "attacks.harmful-mix/continue.steps=5",
                                        "attacks.harmful-mix/continue.eval_steps=[0, 5]"])  # fmt: skip
    stages = list(planned(recipe))
    names = [stage.what.partition(":")[0] for stage in stages]
    assert names == ["data", "calibrate", "evaluate", *["immunize", "evaluate", "attack", "evaluate"] * 2]
    assert sum(stage.passes for stage in stages) == (10 + 5) + (30 + 5)


def test_a_control_that_is_not_judged_is_not_scored():
    recipe = load_recipe("quickstart", ["attacks.harmful-mix/continue.judged=false"])
    names = [stage.what.partition(":")[0] for stage in planned(recipe)]
    assert names.count("evaluate") == 3


def test_the_estimate_grows_with_the_model_and_the_steps():
    short, long = (load_recipe("quickstart", [f"immunize.steps={steps}"]) for steps in (10, 1000))
    assert multiply_speed() > 0
    assert seconds_here(long, 10**8) > 3 * seconds_here(short, 10**8)
    assert seconds_here(short, 10**9) > 3 * seconds_here(short, 10**8)
