"""noise_and_distil is compared at equal distance from the base: the whole bench script, on a tiny model."""

import json
import sys
from pathlib import Path

import pytest

from user_files import user_files, write_jsonl

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

import noise_and_distil


@pytest.fixture
def overrides(tmp_path, monkeypatch):
    """A user's files in place of the built-in model and data, and little of everything."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "bench").mkdir()
    recipe = (noise_and_distil.HERE / "defenses.yaml").read_text()
    (tmp_path / "bench" / "defenses.yaml").write_text(recipe)
    monkeypatch.setattr(noise_and_distil, "HERE", tmp_path / "bench")
    sections = user_files(tmp_path, 160, 120)
    write_jsonl(tmp_path / "general.jsonl", [{"prompt": f"Sum {i}?", "completion": f"It is {i}."} for i in range(20)])
    sections["data"]["general"] = {"source": str(tmp_path / "general.jsonl")}
    changes = {
        **sections,
        "immunize.steps": 2,
        "defenses.distilled.steps": 2,
        "defenses.lightly distilled.steps": 2,
        "attacks.harmful-mix/fresh": {"n": 8, "steps": 1, "batch": 4, "p": 0.25, "lr": 1e-3, "eval_steps": [0, 1],
                                      "method": "harmful-mix", "adapter": "fresh", "lora": {"rank": 2}},
        "evaluate.n_harmful": 8,
        "evaluate.n_task": 8,
        "evaluate.max_new_tokens": 2,
    }  # fmt: skip
    return [f"{key}={json.dumps(value)}" for key, value in changes.items()]


def test_the_teacher_is_prolonged_to_the_distance_of_each_student(overrides):
    assert noise_and_distil.main(["3", *overrides]) == 0
    page = Path("docs/noise-and-distil.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:3] == "| 3"]
    distance = {row[1]: float(row[2]) for row in rows}
    assert distance["sft"] < distance["lightly distilled"] < distance["distilled"]
    for student in noise_and_distil.STUDENTS:
        assert distance[f"SFT as far as {student}"] == pytest.approx(distance[student], abs=0.02)
    assert all("→" in cell and "[" in cell for row in rows for cell in row[3:])


def test_what_is_no_seed_ends_with_2(capsys):
    assert noise_and_distil.main(["one"]) == 2
    assert "bench/noise_and_distil.py: " in capsys.readouterr().err
