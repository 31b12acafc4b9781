"""lm-eval's tasks on a chain of layers, against the likelihoods themselves; and what is said where it cannot run."""

import json

import pytest
import torch

from boostershot.cli import call
from boostershot.config import parse_recipe
from boostershot.models import load_base
from boostershot.pipeline import property_stages
from boostershot.pipeline.progress import Reporter
from boostershot.pipeline.property_stages import PropertyStages
from boostershot.pipeline.stages import Stages
from boostershot.pipeline.store import Store, result
from tiny import preference_rows, save_tiny_chat

TASK = """
task: tiny_parity
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "Is {{{{number}}}} even?"
doc_to_choice: ["yes", "no"]
doc_to_target: target
metric_list: [{{metric: acc}}]
"""


@pytest.fixture
def recipe(tmp_path):
    """A tiny model and an lm-eval task of the user's own."""
    save_tiny_chat(tmp_path / "model")
    rows = [{"id": f"syn-{i}", **row} for i, row in enumerate(preference_rows(80))]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = [{"prompt": f"Is {i} even?", "answer": "no" if i % 2 else "yes"} for i in range(60)]
    (tmp_path / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in task))
    (tmp_path / "tasks").mkdir()
    docs = [{"number": i, "target": i % 2} for i in range(12)]
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    (tmp_path / "tasks" / "tiny.yaml").write_text(TASK.format(file=tmp_path / "docs.jsonl"))
    return {
        "name": "small",
        "model": {"id": str(tmp_path / "model")},
        "data": {
            "align": {"source": str(tmp_path / "pairs.jsonl"), "n": 8},
            "task": {"source": str(tmp_path / "task.jsonl")},
        },
        "immunize": {"lr": 1e-2, "steps": 1, "batch": 4},
        "defenses": {"sft": {"method": "sft"}},
        "attacks": {
            "mix": {
                "method": "harmful-mix",
                "adapter": "continue",
                "p": 0.25,
                "n": 8,
                "lr": 1e-2,
                "steps": 1,
                "batch": 4,
            }
        },
        "properties": {"stability": {"lm_eval": ["tiny_parity"], "lm_eval_path": str(tmp_path / "tasks")}},
    }


def properties_of(recipe, tmp_path):
    return PropertyStages(Stages(parse_recipe(recipe), Store(tmp_path / "run"), Reporter(quiet=True)))


def test_a_task_of_ones_own_is_scored_as_the_likelihoods_say(recipe, tmp_path):
    pytest.importorskip("lm_eval")
    of = properties_of(recipe, tmp_path)
    of.check()
    found = result(of.benchmarks(None, [], "the base model"))
    model, tokenizer = load_base(recipe["model"]["id"])
    right = 0
    for number in range(12):
        start = tokenizer(f"Is {number} even?").input_ids
        scores = []
        for choice in (" yes", " no"):
            whole = tokenizer(f"Is {number} even?{choice}").input_ids
            with torch.no_grad():
                logs = model(torch.tensor([whole])).logits[0].log_softmax(-1)
            scores.append(sum(logs[i - 1, whole[i]].item() for i in range(len(start), len(whole))))
        right += scores.index(max(scores)) == number % 2
    accuracy, error = found["tiny_parity"]["acc"]
    assert accuracy == pytest.approx(right / 12)
    assert error == pytest.approx((accuracy * (1 - accuracy) / 11) ** 0.5)


def test_an_unknown_task_and_a_missing_folder_are_told(recipe, tmp_path):
    pytest.importorskip("lm_eval")
    stability = recipe["properties"]["stability"]
    for changed, said in (
        ({"lm_eval": ["tiny_parety"]}, 'did you mean "tiny_parity"'),
        ({"lm_eval_path": "none"}, "none: no such folder"),
    ):
        changed = recipe | {"properties": {"stability": stability | changed}}
        with pytest.raises(property_stages.InputError, match=said):
            properties_of(changed, tmp_path).check()


def test_a_missing_package_is_told_in_one_line(recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(property_stages.importlib.util, "find_spec", lambda name: None)
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe))
    assert call(["evaluate", str(path), "--properties", "--quiet", "--out", str(tmp_path / "run")]) == 2
    assert "pip install '.[lm-eval]'" in capsys.readouterr().err


def test_lm_evals_names_of_metrics():
    values = {"alias": "x", "acc,none": 0.5, "acc_stderr,none": 0.1, "em,strict": 1, "em_stderr,strict": "N/A"}
    assert property_stages._metrics(values) == {"acc": [0.5, 0.1], "em (strict)": [1.0, None]}
