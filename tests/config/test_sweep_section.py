"""The recipe's section `sweep`: what it resolves to, what a trial makes of its attack, what is refused."""

import pytest

from boostershot.attacks.spaces import SPACES
from boostershot.config import AttackSettings, load_recipe, parse_recipe
from boostershot.config.sweep import Attacker, tuned_attack, untuned_values
from boostershot.errors import InputError
from boostershot.report import recipe_hash

BUDGET = {"trials": 8, "steps": 30, "samples": 64}
BASE = AttackSettings(method="harmful-mix", p=0.2, n=160, lr=2e-4, steps=20, batch=8, weight_decay=0.3, warmup_steps=15)


def test_a_resolved_section_is_its_own_description():
    recipe = load_recipe("quickstart", {"sweep.attacker": BUDGET})
    assert parse_recipe(recipe.to_dict()) == recipe
    assert recipe.sweep.attacker.checkpoints == (8, 15)
    # What a sweep adds makes no other run: results and properties stay those of the recipe.
    assert recipe_hash(recipe.to_dict()) == recipe_hash(load_recipe("quickstart").to_dict())


def test_the_scale_shortens_trials_and_keeps_their_number():
    scaled = load_recipe("quickstart", {"sweep.attacker": BUDGET, "scale": 0.5}).scaled().sweep.attacker
    assert (scaled.trials, scaled.steps, scaled.samples) == (8, 15, 32)
    assert scaled.budgeted["steps"].high == 15


def test_trials_start_from_the_first_attack_that_trains_on_harmful_rows():
    """Outliers are chosen by harmful rows, and none is trained on."""
    outliers = {"method": "outlier-benign", "n": 8, "anchors": 2, "adapter": "continue", "lr": 2e-4, "steps": 4}
    mix = load_recipe("quickstart").to_dict()["attacks"]["harmful-mix/continue"]
    recipe = load_recipe("quickstart", {"attacks": {"outliers": outliers, "mix": mix}, "sweep.attacker": BUDGET})
    assert recipe.sweep.base(recipe.attacks) == "mix" and recipe.harmful_attacks == ("mix",)


@pytest.mark.parametrize("name", SPACES)
def test_every_value_of_a_shipped_space_is_one_that_attacks_take(name):
    recipe = load_recipe("quickstart", {"sweep.attacker": {**BUDGET, "space": name}})
    attacker = recipe.sweep.attacker
    for values in attacker.budgeted.samples():
        settings = tuned_attack(BASE, values, attacker)
        assert settings.total_steps <= 30
        assert settings.attack.n <= 64
        assert settings.eval_steps == (settings.total_steps,)


def test_a_trial_keeps_what_its_values_do_not_say():
    attacker = Attacker(**BUDGET)
    kept = tuned_attack(BASE, {"lr": 1e-3, "steps": 12}, attacker)
    assert (kept.lr, kept.steps, kept.weight_decay, kept.attack.p, kept.attack.n) == (1e-3, 12, 0.3, 0.2, 64)
    assert (kept.adapter, kept.lora, kept.warmup_steps) == ("continue", None, 12)
    fresh = tuned_attack(BASE, {"adapter": "fresh", "lora.rank": 4, "lora.alpha": 8}, attacker)
    assert (fresh.steps, fresh.lora.rank, fresh.lora.alpha) == (30, 4, 8.0)
    assert tuned_attack(fresh, {"adapter": "full"}, attacker).lora is None
    other = tuned_attack(BASE, {"method": "harmful-only"}, attacker)
    assert (other.attack.n_harmful, other.attack.n_benign) == (64, 0)


def test_the_untuned_attack_is_known_where_the_space_has_it():
    values = untuned_values(BASE, Attacker(**BUDGET))
    assert values["lr"] == 2e-4
    assert values["steps"] == 20
    assert "lora.rank" not in values
    assert untuned_values(BASE.model_copy(update={"lr": 0.5}), Attacker(**BUDGET)) is None


@pytest.mark.parametrize(
    ("attacker", "said"),
    [
        ({"space": {"method": ["prefill"]}}, "sweep.attacker.space.method"),
        ({"space": {"anchor": [{"mu": 1.0}]}}, "data.general: is missing"),
        ({"attack": "mix"}, "sweep.attacker.attack"),
        ({"epsilons": [0.1, 1.5]}, "sweep.attacker.epsilons"),
        ({"seeds": [101, 0]}, "sweep.attacker.seeds: has 0, the search's own seed"),
        ({"space": {"steps": ["ten"]}}, 'sweep.attacker.space.steps: has "ten"; expected whole numbers'),
        ({"space": {"n": [None]}}, "sweep.attacker.space.n: has null; expected whole numbers"),
        ({"space": {"n": [True]}}, "sweep.attacker.space.n: has true; expected whole numbers"),
        ({"space": {"steps": {"low": 1.5, "high": 9}}}, "sweep.attacker.space.steps: has 1.5; expected whole numbers"),
        ({"space": {"batch": [8], "steps": {"times": 90, "of": "batch"}}}, "sweep.attacker.space.steps: is a multiple"),
        ({"space": {"epochs": [3]}}, "space.epochs: is given; expected none"),
        ({"space": {"eval_steps": [[3]]}}, "space.eval_steps: is given; expected none"),
        ({"space": {"judged": [False]}}, "space.judged: is given; expected none"),
        ({"space": {"warmup_steps": ["ten"]}}, "sweep.attacker.space.warmup_steps"),
        ({"space": {"method": [["harmful-mix"]]}}, "sweep.attacker.space.method"),
        ({"space": {"adapter": ["fresh"], "lora": [8]}}, "sweep.attacker.space.lora"),
        ({"space": {"adapter": ["fresh"], "lora": [{"rank": 8}], "lora.alpha": [8]}}, "beside 'lora'"),
    ],
)
def test_what_does_not_fit_is_refused(attacker, said):
    with pytest.raises(InputError) as caught:
        load_recipe("quickstart", {"sweep.attacker": {**BUDGET, **attacker}})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
