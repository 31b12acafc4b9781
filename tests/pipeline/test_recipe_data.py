"""The rows that a recipe names: what is trained on, steered by and scored never meets."""

import json

import pytest

import boostershot as bs
from boostershot.config import parse_recipe
from boostershot.data.splits import normalise, split_of
from boostershot.pipeline.data import RecipeData
from boostershot.pipeline.progress import Reporter
from tiny import preference_rows, save_tiny_chat


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model and local data."""
    folder = tmp_path_factory.mktemp("user")
    save_tiny_chat(folder / "model")
    pairs = [{"id": f"syn-{i}", **row} for i, row in enumerate(preference_rows(160))]
    task = [{"prompt": f"Is {i} even?", "answer": "no" if i % 2 else "yes"} for i in range(100)]
    spelt = [{"question": f"Spell word {i}", "reply": f"These are the letters of {i}"} for i in range(40)]
    asked = [{"question": row["prompt"].upper(), "reply": "Found in another place"} for row in [*pairs, *task]]
    for name, rows in {"pairs": pairs, "task": task, "general": asked + spelt, "test": pairs[:30]}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def recipe(folder, **changes):
    """A recipe on that data; keys are dotted with __."""
    base = {
        "name": "small",
        "model": {"id": str(folder / "model")},
        "seeds": [0],
        "data": {
            "align": {"source": str(folder / "pairs.jsonl"), "n": 16},
            "task": {"source": str(folder / "task.jsonl")},
            "general": {
                "source": str(folder / "general.jsonl"),
                "columns": {"prompt": "question", "completion": "reply"},
            },
        },
        "immunize": {"lr": 1e-2, "steps": 2, "batch": 4, "lora": {"rank": 4}},
        "defenses": {"sft": {"method": "sft"}},
        "attacks": {"mix": {"method": "harmful-mix", "adapter": "full", "p": 0.5, "n": 4, "lr": 1e-4, "steps": 1}},
        "evaluate": {"n_harmful": 4, "n_task": 4, "max_new_tokens": 2},
    }
    for key, value in changes.items():
        *sections, last = key.split("__")
        node = base
        for section in sections:
            node = node[section]
        node[last] = value
    return parse_recipe(base)


def prompts(rows):
    return {normalise(row.prompt) for row in rows}


def test_general_text_is_apart_from_what_is_scored(folder):
    data = RecipeData(recipe(folder))
    general = prompts(data.general)
    for rows in (data.splits[name] for name in ("attack", "dev", "calibration", "test")):
        assert not general & prompts(rows)
    assert not general & (prompts(data.task.splits["dev"]) | prompts(data.task.splits["test"]))
    assert general >= prompts(data.splits["align"]) | prompts(data.task.splits["train"])  # which may well be there
    facts = data.facts()
    assert facts["splits"]["general"] == len(data.general) == len(general)
    pairs = {pair for pair in facts["overlaps"] if "general" in pair}
    assert pairs == {f"general&{name}" for name in ("attack", "dev", "calibration", "test", "task dev", "task test")}
    assert set(facts["overlaps"].values()) == {0}


def test_general_text_of_reasoning_gym(folder):
    general = {"source": "reasoning-gym:spell_backward", "n": 7, "options": {"size": 50}}
    rows = RecipeData(recipe(folder, data__general=general)).general
    assert len(rows) == 7 and all(row.prompt and row.completion for row in rows)


def test_a_split_kept_apart_is_in_no_other_and_its_share_is_aligned_on(folder):
    apart = RecipeData(recipe(folder, data__align__test={"source": str(folder / "test.jsonl")}))
    own = RecipeData(recipe(folder))
    assert len(apart.splits["test"]) == 30
    assert set(apart.facts()["overlaps"].values()) == {0}
    scored = prompts(apart.splits["test"])
    assert prompts(apart.splits["dev"]) == prompts(own.splits["dev"]) - scored
    assert prompts(apart.splits["align"]) == prompts([*own.splits["align"], *own.splits["test"]]) - scored


def test_steering_takes_the_last_dev_prompts_and_none_that_is_scored(folder, monkeypatch):
    monkeypatch.setattr("boostershot.pipeline.data.STEERING_ROWS", 10)
    dev = RecipeData(recipe(folder)).splits["dev"]
    assert len(dev) > 16 and all(split_of(row.prompt) == "dev" for row in dev)
    for split, scored, left in (("test", 1000, 10), ("dev", 4, 10), ("dev", len(dev) - 3, 3)):
        found = RecipeData(recipe(folder, evaluate__split=split, evaluate__n_harmful=scored)).steering
        assert list(found) == dev[-left:]


def test_steering_by_rows_that_are_all_scored_is_refused(folder):
    steered = {"method": "booster", "alpha": 0.1, "schedule": {"target_reduction": 0.1}}
    wrong = recipe(folder, evaluate__split="dev", evaluate__n_harmful=500, defenses={"steered": steered})
    with pytest.raises(bs.InputError, match=r"evaluate\.n_harmful: is 500 .* none is left to steer a schedule by"):
        bs.run(wrong, folder / "refused", reporter=Reporter(quiet=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "none.jsonl"}, "none.jsonl: no such file"),
        ({"source": "test.jsonl", "columns": {"prompt": "nothing"}}, "has no column 'nothing'"),
        ({"source": "test.jsonl", "columns": {"completion": "chosen"}}, "all prompts of its 30 rows are held out"),
        ({"source": "reasoning-gym:nothing"}, "reasoning-gym has no task 'nothing'"),
    ],
)
def test_wrong_general_text_is_one_line(folder, monkeypatch, changes, message):
    monkeypatch.chdir(folder)
    data = RecipeData(recipe(folder, data__general=changes, data__align__test={"source": "test.jsonl"}))
    with pytest.raises(bs.InputError) as caught:
        _ = data.general
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_scaled_run_is_that_of_the_scaled_numbers(folder):
    for name, scale, steps, rows in (("scaled", 0.25, 12, 16), ("plain", None, 3, 4)):
        given = recipe(folder, immunize__steps=steps, data__align__n=rows)
        bs.run(given, folder / name, scale=scale, until="immunize", reporter=Reporter(quiet=True))
    stages = [{path.name for path in (folder / name / "stages").iterdir()} for name in ("scaled", "plain")]
    assert stages[0] == stages[1]
    manifest = json.loads((folder / "scaled" / "manifest.json").read_text())
    assert (manifest["recipes"]["small"]["scale"], manifest["recipes"]["small"]["immunize"]["steps"]) == (0.25, 12)


@pytest.mark.slow
def test_defenses_get_general_and_dev_rows_and_only_they_depend_on_them(folder):
    defenses = {
        "sft": {"method": "sft"},
        "trap": {"method": "ctrap", "alpha": 0.1},
        "steered": {"method": "booster", "alpha": 0.1, "schedule": {"target_reduction": 0.1, "every": 1}},
        "beside": {"method": "sdd"},
    }

    def logs(**changes):
        """The metrics of all alignments so far, after those of the recipe."""
        target = folder / "run"
        bs.run(recipe(folder, defenses=defenses, **changes), target, until="immunize", reporter=Reporter(quiet=True))
        return [path.read_text() for path in target.glob("stages/immunize-*/metrics.jsonl")]

    assert [sum(key in log for log in logs()) for key in ("loss", "collapse_loss", "dev_")] == [4, 1, 1]
    more = logs(data__general__n=20)  # ctrap and sdd again
    assert [sum(key in log for log in more) for key in ("loss", "collapse_loss", "dev_")] == [6, 2, 1]
    assert len(logs(data__general__n=20, evaluate__n_harmful=5)) == 6


@pytest.mark.parametrize(
    ("defense", "message"),
    [
        ({"method": "t_vaccine", "layers": 9}, "t_vaccine: layers is 9; this model has 2"),
        ({"method": "ctrap", "alpha": 0.1, "token": 10**6}, "ctrap: token is 1000000; expected one of"),
        (
            {"method": "booster", "alpha": 0.1, "align": {"method": "t_vaccine", "layers": 9}},
            "t_vaccine: layers is 9; this model has 2",
        ),
    ],
)
def test_a_model_that_a_defense_cannot_work_on_is_refused_before_anything_is_done(folder, tmp_path, defense, message):
    unfit = recipe(folder, defenses={"sft": {"method": "sft"}, "mine": defense})
    with pytest.raises(bs.InputError) as caught:
        bs.run(unfit, tmp_path / "run", reporter=Reporter(quiet=True))
    assert str(caught.value).startswith(f"defenses.mine: {message}")
    assert not list((tmp_path / "run").glob("stages/immunize-*"))
