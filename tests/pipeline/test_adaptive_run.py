"""An anchor and an adaptive attacker in a recipe: he meets the defence that the model was aligned with."""

import json

import pytest

import boostershot as bs
from boostershot.cli import call
from boostershot.config import parse_recipe
from boostershot.pipeline.progress import Reporter
from boostershot.pipeline.settings import attack_arguments
from tiny import preference_rows, save_tiny_chat

TRAINING = {"adapter": "continue", "p": 0.5, "n": 8, "lr": 1e-2, "steps": 2, "batch": 4}
TRAPS = ("booster", "vaccine", "repnoise")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("user")
    save_tiny_chat(folder / "model")
    rows = preference_rows(200)
    task = [{"prompt": f"Is {i} even?", "answer": "no" if i % 2 else "yes"} for i in range(60)]
    general = [{"prompt": f"Say {i}", "completion": f"It is {i}."} for i in range(12)]
    for name, records in (("pairs", rows), ("task", task), ("general", general)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in records))
    return {
        "name": "moves",
        "model": {"id": str(folder / "model")},
        "data": {
            "align": {"source": str(folder / "pairs.jsonl"), "n": 8},
            "general": {"source": str(folder / "general.jsonl")},
            "task": {"source": str(folder / "task.jsonl")},
        },
        "seeds": [0],
        "immunize": {"lr": 1e-2, "steps": 2, "batch": 4, "lora": {"rank": 4}},
        "defenses": {
            "sft": {"method": "sft"},
            "booster": {"method": "booster", "lam": 5, "alpha": 0.1, "schedule": {"target_reduction": 0.1}},
            "vaccine": {"method": "vaccine"},
            "repnoise": {"method": "repnoise"},
        },
        "attacks": {
            "mix": TRAINING | {"method": "harmful-mix"},
            "opposed": TRAINING | {"method": "adaptive", "opposed": 0.9},
            "anchored": TRAINING | {"method": "harmful-mix", "anchor": {"mu": 1, "kl": True, "n": 8}},
        },
        "evaluate": {"n_harmful": 6, "n_task": 4, "max_new_tokens": 2},
    }


@pytest.fixture(scope="module")
def losses(recipe, tmp_path_factory):
    """(defence, attack) -> the harmful losses that the attack recorded."""
    folder = tmp_path_factory.mktemp("run")
    bs.run(parse_recipe(recipe), folder, until="attack", reporter=Reporter(quiet=True))
    found = {}
    for stage in (folder / "stages").glob("attack-*"):
        described = json.loads((stage / "config.json").read_text())
        made = json.loads((folder / "stages" / described["parents"][0] / "config.json").read_text())
        attack = described["config"]["attack"]
        label = next(k for k, v in reversed(recipe["attacks"].items()) if _holds(attack, v))  # mix is within others
        metrics = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
        method = made["config"]["defense"]["method"]
        found[method, label] = json.loads((stage / "losses.json").read_text()), metrics
    return found


def _holds(have, want):
    return all(_holds(have.get(k), v) for k, v in want.items()) if isinstance(want, dict) and have else have == want


def test_every_cell_is_attacked(losses, recipe):
    assert set(losses) == {(method, label) for method in ("sft", *TRAPS) for label in recipe["attacks"]}


def test_a_term_is_opposed_where_the_defence_has_one(losses):
    for method in TRAPS:
        plain, opposed = losses[method, "mix"], losses[method, "opposed"]
        assert opposed[0] != plain[0]
        assert [step["opposed_term"] for step in opposed[1] if "opposed_term" in step], method
    assert losses["sft", "opposed"][0] == losses["sft", "mix"][0]


def test_an_anchor_is_logged_and_changes_the_attack(losses):
    for method in ("sft", *TRAPS):
        logged = [step["anchor_loss"] for step in losses[method, "anchored"][1] if "anchor_loss" in step]
        assert logged[0] == pytest.approx(0, abs=1e-6) and logged[1] > 0  # the divergence from where it began
        assert losses[method, "anchored"][0] != losses[method, "mix"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attacks.anchored.anchor.n": 13}, "attacks.anchored.anchor.n: is 13; data.general has 12 rows"),
        ({"attacks.anchored.anchor.mu": 0}, "attacks.anchored.anchor.mu: is 0; expected"),
        ({"attacks.anchored.anchor.nu": 1}, "attacks.anchored.anchor.nu: unknown key; expected one of"),
        ({"data.general.n": 4}, "attacks.anchored.anchor.n: is 8; expected at most data.general.n, 4"),
        ({"attacks.mix.momentum": 1}, "attacks.mix.momentum: is 1; expected less than 1"),
        ({"attacks.mix.optimizer": "adam"}, 'attacks.mix.optimizer: is "adam"; expected one of adamw, sgd'),
        ({"attacks.opposed.opposed": 1}, "attacks.opposed.opposed: is 1; expected 0 to below 1"),
        ({"attacks.opposed.kick": {"lr_factor": -1}}, "attacks.opposed.kick.lr_factor: is -1"),
        ({"attacks.opposed.kick": {"share": 0.1}}, "attacks.opposed.kick: nothing changes; expected lr_factor"),
        (
            {"attacks.mix": {"method": "grpo", "lr": 1, "steps": 1, "anchor": {}}},
            "attacks.mix.anchor: is given; expected null, for grpo descends no loss",
        ),
        ({"attacks.mix.kick": {"noise": 0.1}}, "attacks.mix.kick: unknown key"),
    ],
)
def test_bad_settings_are_told_in_one_line(recipe, tmp_path, capsys, change, message):
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    options = [part for key, value in change.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    assert call(["run", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run"), *options]) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert message in err[-1]


def test_an_anchor_without_general_text_is_told(recipe, tmp_path, capsys):
    data = {key: value for key, value in recipe["data"].items() if key != "general"}
    defenses = {"sft": {"method": "sft"}}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe | {"data": data, "defenses": defenses}))
    assert call(["run", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run")]) == 2
    assert "data.general: is missing, and attacks.anchored.anchor needs general text" in capsys.readouterr().err


def test_scaling_takes_that_part_of_the_anchors_rows(recipe):
    scaled = parse_recipe(recipe | {"scale": 0.5}).scaled()
    assert scaled.attacks["anchored"].anchor.n == 4


def test_the_optimiser_reaches_the_training(recipe):
    attacks = recipe["attacks"] | {"mix": TRAINING | {"method": "harmful-mix", "optimizer": "lion", "momentum": 0.5}}
    settings = parse_recipe(recipe | {"attacks": attacks}).attacks
    given = attack_arguments(settings["mix"], 3)
    assert (given["optimizer"], given["momentum"], given["learning_rate"], given["seed"]) == ("lion", 0.5, 1e-2, 3)
    assert attack_arguments(settings["opposed"], 3)["optimizer"] == "adamw"
