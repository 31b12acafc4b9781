"""A run spread over worker processes: the same results as with none, whoever dies meanwhile."""

import json
from pathlib import Path

import pytest
import yaml

import boostershot as bs
from boostershot.pipeline.progress import Reporter
from tiny import preference_rows, save_tiny_chat

QUIET = Reporter(quiet=True)
CONTENT = (".safetensors", ".jsonl", ".json")  # of a stage; what else is there tells times


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, data and a recipe, as a user would have them."""
    folder = tmp_path_factory.mktemp("user")
    save_tiny_chat(folder / "model")
    rows = [{"id": f"syn-{i}", **row} for i, row in enumerate(preference_rows(120))]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = [{"prompt": f"Is {i} even?", "answer": "no" if i % 2 else "yes"} for i in range(80)]
    (folder / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in task))
    attack = {"method": "harmful-mix", "p": 0.25, "n": 8, "lr": 1e-2, "steps": 2, "batch": 4, "eval_steps": [0, 1, 2]}
    recipe = {
        "name": "spread",
        "model": {"id": str(folder / "model")},
        "data": {
            "align": {"source": str(folder / "pairs.jsonl"), "n": 8},
            "task": {"source": str(folder / "task.jsonl")},
        },
        "seeds": [0],
        "immunize": {"lr": 1e-2, "steps": 2, "batch": 4, "lora": {"rank": 4, "dropout": 0.1}},
        "defenses": {"sft": {"method": "sft"}, "booster": {"method": "booster", "lam": 5, "alpha": 0.1}},
        "attacks": {"continue": attack | {"adapter": "continue"}, "fresh": attack | {"adapter": "fresh"}},
        "evaluate": {"n_harmful": 8, "n_task": 6, "max_new_tokens": 4},
        "runtime": {"threads": 1},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return folder


@pytest.fixture(scope="module")
def alone(folder):
    """The recipe, run by this process alone."""
    return bs.run(folder / "recipe.yaml", folder / "alone", reporter=QUIET)


def contents(root: Path) -> dict[str, str]:
    """Checksum of every file of every stage that says what was measured."""
    return {
        f"{status.parent.name}/{name}": about["sha256"]
        for status in root.glob("stages/*/status.json")
        for name, about in json.loads(status.read_text())["files"].items()
        if name.endswith(CONTENT) and "metrics" not in name
    }


def test_two_processes_give_the_same_to_the_bit_and_do_nothing_twice(folder, alone, capfd):
    spread = bs.run(folder / "recipe.yaml", folder / "two", {"runtime.processes": 2})
    told = capfd.readouterr().err
    assert contents(spread.folder) == contents(alone.folder)
    assert spread.rows == alone.rows
    assert spread.content["comparisons"] == alone.content["comparisons"]
    stages = len(list(spread.folder.glob("stages/*")))
    assert stages == len(list(alone.folder.glob("stages/*")))
    lines = [line for line in told.splitlines() if " s" in line and line.startswith(("immuniz", "attack", "answer"))]
    assert len(lines) == len(set(lines)) == 2 + 4 + 11  # alignments, attacks, and answers of each model
