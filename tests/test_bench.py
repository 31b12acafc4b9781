"""The comparison of defences: what is searched, and that search and table run."""

import runpy
from pathlib import Path

import pytest

from boostershot.config import build_defense, describe_defense
from boostershot.defenses import DEFENSES

BENCH = Path(__file__).parents[1] / "bench"


@pytest.fixture
def bench():
    return runpy.run_path(str(BENCH / "defenses.py"), run_name="bench")


def test_every_method_that_has_something_to_search_gets_six_distinct_trials(bench):
    searched = bench["trials"]()
    for label, settings in searched.items():
        built = [describe_defense(build_defense(values, label)) for values in settings]
        assert len({str(one) for one in built}) == 6, label
    methods = {values["method"] for settings in searched.values() for values in settings}
    assert methods == set(DEFENSES) - {"sft", "sdd", "sum"}


def test_the_recipe_takes_the_trials(bench):
    labelled = {f"{label}-{i}": v for label, tried in bench["trials"]().items() for i, v in enumerate(tried)}
    recipe = bench["recipe"]("search-defenses", "dev", [0], labelled, ["immunize.steps=3"])
    assert recipe.evaluate.split == "dev"
    assert recipe.immunize.steps == 3
    assert recipe.defenses.keys() == {"sft", *labelled}
    chosen = {"booster": labelled["booster-0"], "sdd": {"method": "sdd"}}
    approximated = bench["approximated"](chosen)
    recipe = bench["recipe"]("bench-defenses", "test", [0], chosen | approximated, [])
    assert [recipe.defenses[label]["every"] for label in approximated] == [3, 1, 1]
    assert bench["approximated"]({"sdd": {"method": "sdd"}}) == {}


def row(score, accuracy=50.0, degenerate=0.0):
    return {"harmful_score": score, "finetune_accuracy": accuracy, "degenerate_share": degenerate}


@pytest.mark.parametrize(
    ("trial", "able"),
    [
        (row(0.0), True),
        (row(0.0, accuracy=45.0), True),
        (row(0.0, accuracy=44.0), False),
        (row(0.0, degenerate=6.0), False),
    ],
)
def test_a_trial_that_costs_ability_is_not_chosen(bench, trial, able):
    assert bench["_keeps_ability"](trial, row(80.0)) == able
