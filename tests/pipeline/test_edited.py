"""Attacks of the lab that edit, choose or re-factor, through a whole run of a tiny model."""

import json

import pytest
import torch
import yaml

from boostershot import InputError
from boostershot.cli import call
from boostershot.config import load_recipe
from boostershot.models import Layer, load_chain
from user_files import user_files

TRAINING = {"lr": 1e-2, "steps": 1, "batch": 4}
ATTACKS = {
    "writing": {"method": "ablation", "n": 4, "layer": 1},
    "reading": {"method": "ablation", "n": 4, "layer": 1, "matrices": "reading"},
    "outliers": {"method": "outlier-benign", "n": 4, "candidates": 6, "anchors": 2, "adapter": "fresh", **TRAINING},
    "norms": {"method": "harmful-only", "n": 4, "adapter": "fresh", "refactor": "norms", **TRAINING},
}


@pytest.fixture(scope="module")
def user(tmp_path_factory):
    """A recipe with all of them, and its run."""
    folder = tmp_path_factory.mktemp("user")
    recipe = {
        "name": "edits",
        **user_files(folder, 160, 120, std=0.3),
        "seeds": [0],
        "immunize": {"lr": 1e-2, "steps": 1, "batch": 4, "lora": {"rank": 4}},
        "defenses": {"sft": {"method": "sft"}},
        "attacks": ATTACKS,
        "evaluate": {"n_harmful": 4, "n_task": 4, "max_new_tokens": 3},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    assert call(["run", str(folder / "recipe.yaml"), "--out", str(folder / "run")]) == 0
    return folder


@pytest.fixture(scope="module")
def rows(user):
    """results.json's rows by attack and step."""
    found = json.loads((user / "run" / "results.json").read_text())["rows"]
    return {(row["attack"], row["attack_step"]): row for row in found}


def test_every_cell_is_scored(rows):
    steps = {label: [0] if settings["method"] == "ablation" else [0, 1] for label, settings in ATTACKS.items()}
    assert rows.keys() == {(label, step) for label, all_ in steps.items() for step in all_}
    assert {row["status"] for row in rows.values()} == {"done"}
    before = rows["norms", 0]["stage"]
    assert [label for label in ATTACKS if rows[label, 0]["stage"] != before] == ["writing", "reading"]
    assert len({row["stage"] for row in rows.values()}) == 1 + 2 + 2


def stage_of(user, label):
    for status in (user / "run" / "stages").glob("attack-*/config.json"):
        config = json.loads(status.read_text())["config"]
        if config.get("edit", {}).get("matrices") == label:
            return status.parent
    raise AssertionError(label)


@pytest.mark.parametrize("matrices", ["writing", "reading"])
def test_the_stage_holds_the_immunised_weights_without_one_direction(user, matrices):
    stage = stage_of(user, matrices)
    (immunised,) = (user / "run" / "stages").glob("immunize-*/adapter")
    released = load_chain(str(user / "model"), [Layer(immunised, merge=True)])[0].state_dict()
    edited = load_chain(str(user / "model"), [Layer(stage / "step-0", merge=True)])[0].state_dict()
    changes = {name: edited[name] - value for name, value in released.items() if not torch.equal(value, edited[name])}
    kinds = ("o_proj", "down_proj", "embed") if matrices == "writing" else ("q_", "k_", "v_", "gate", "up_proj")
    assert {kind for kind in kinds if any(kind in name for name in changes)} == set(kinds)
    assert all(any(kind in name for kind in kinds) for name in changes)
    for name, change in changes.items():
        along_rows = matrices == "reading" or "embed" in name  # the stream is their second dimension
        u = torch.linalg.svd(change.double()).Vh[0] if along_rows else torch.linalg.svd(change.double()).U[:, 0]
        left = edited[name].double() @ u if along_rows else u @ edited[name].double()
        assert left.norm() < 1e-5 * edited[name].norm(), name
        assert torch.linalg.svdvals(change.double())[1] < 1e-5 * change.norm()
    distance = json.loads((stage / "distance.json").read_text())["0"]
    lengths = [sum(v.double().square().sum().item() for v in some.values()) ** 0.5 for some in (changes, released)]
    assert distance == pytest.approx(lengths[0] / lengths[1], rel=1e-6)
    assert json.loads((stage / "losses.json").read_text())["0"]["held_out"]


def test_the_report_has_a_column_for_them(user):
    assert "no training" in (user / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("attacks.writing.matrices=all", 'attacks.writing.matrices: is "all"; expected one of reading, writing, both'),
        ("attacks.writing.refactor=norms", "attacks.writing.refactor: is given; expected none, for ablation trains"),
        ("attacks.norms.refactor=adapter", "attacks.norms.refactor: is adapter; expected norms or null, for adapter:"),
    ],
)
def test_what_a_recipe_cannot_ask_for(user, override, message):
    with pytest.raises(InputError, match=message):
        load_recipe(user / "recipe.yaml", [override])
