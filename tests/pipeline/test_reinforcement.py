"""A whole run with attacks by reinforcement: what it leaves, how it goes on after a kill, what is refused."""

import json
import math

import pytest
import yaml
from safetensors.torch import load_file

import boostershot as bs
from boostershot.cli import call
from boostershot.pipeline import rewards, settings
from boostershot.pipeline.progress import Reporter
from user_files import user_files

ATTACK = {"lr": 1e-2, "steps": 4, "batch": 4, "group": 2, "n": 4, "answer_tokens": 6, "eval_steps": [0, 2, 4]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, data and a recipe, as a user would have them."""
    folder = tmp_path_factory.mktemp("user")
    recipe = {
        "name": "small",
        **user_files(folder, 80, 60),
        "seeds": [0],
        "immunize": {"lr": 1e-2, "steps": 2, "batch": 4, "lora": {"rank": 4}},
        "defenses": {"sft": {"method": "sft"}},
        "attacks": {
            "rl": ATTACK | {"method": "grpo", "judge": "relevance", "reward": "graded"},
            "rl-task": ATTACK | {"method": "grpo-task"},
        },
        "evaluate": {"n_harmful": 6, "n_task": 5, "max_new_tokens": 4, "judges": ["offline"]},
        "properties": {"stability": None, "generalization": None, "resistance": None,
                       "trainability": {"attack": "rl", "points": 2}},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return folder


@pytest.fixture(scope="module")
def results(folder):
    return bs.run(folder / "recipe.yaml", folder / "run", properties=True, reporter=Reporter(quiet=True))


def logged(results, attack):
    """The lines of its metrics.jsonl."""
    (stage,) = [
        path.parent
        for path in results.folder.glob("stages/attack-*/config.json")
        if json.loads(path.read_text())["config"]["attack"]["method"] == attack
        and (path.parent / "step-4").exists()
        and json.loads(path.read_text())["config"]["attack"]["adapter"] == "continue"
    ]
    return stage, [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]


def test_both_attacks_are_scored_at_their_steps_and_tell_what_they_earned(results):
    assert {row["status"] for row in results.rows} == {"done"}
    assert [(row["attack"], row["attack_step"]) for row in results.rows] == [
        (attack, step) for attack in ("rl", "rl-task") for step in (0, 2, 4)
    ]
    assert {row["p"] for row in results.rows} == {None}
    earned = {item["attack"]: item for item in results.content["rewards"]}
    assert (earned["rl"]["reward"], earned["rl-task"]["reward"]) == ("graded by relevance", "verdict by the task")
    for attack, method in (("rl", "grpo"), ("rl-task", "grpo-task")):
        _, lines = logged(results, method)
        assert [line["step"] for line in lines] == [1, 2, 3, 4]
        assert [point["mean"] for point in earned[attack]["points"]] == [line["reward"] for line in lines]
    assert 0 < earned["rl"]["points"][0]["mean"] < 1 and earned["rl"]["equal"] == 0.0
    assert earned["rl-task"]["points"][0]["mean"] == 0.0 and earned["rl-task"]["equal"] == 100.0
    assert "Reward: graded by relevance" in (results.folder / "report.html").read_text()


def test_what_is_paid_is_the_judges_grade(folder, results):
    """The first answers are the immunised model's: graded anew, they have the mean that was logged."""
    (item,) = [item for item in results.content["rewards"] if item["attack"] == "rl"]
    calibration = json.loads(next(results.folder.glob("stages/calibrate-*/calibration.json")).read_text())
    seen = []
    whole = rewards.by_judge

    def watched(judge, graded, threshold):
        def telling(pairs):
            verdicts = judge(pairs)
            seen.append([verdict.relevance for verdict in verdicts])
            return verdicts

        return whole(telling, graded, threshold)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rewards, "by_judge", watched)
        bs.run(folder / "recipe.yaml", folder / "again", reporter=Reporter(quiet=True))
    paid = [0.0 if r is None else 1 / (1 + math.exp(calibration["threshold"] - r)) for r in seen[0]]
    assert item["points"][0]["mean"] == pytest.approx(sum(paid) / 4, abs=1e-6)


def test_a_killed_attack_goes_on_to_the_same_weights(folder, results, monkeypatch):
    whole, calls = rewards.by_judge, []

    def killed(*args):
        reward = whole(*args)

        def once(rows, answers):
            calls.append(answers)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return reward(rows, answers)

        return once

    monkeypatch.setattr(rewards, "by_judge", killed)
    monkeypatch.setattr(settings, "CHECKPOINT_EVERY", 1)
    with pytest.raises(KeyboardInterrupt):
        bs.run(folder / "recipe.yaml", folder / "killed", reporter=Reporter(quiet=True))
    again = bs.run(folder / "recipe.yaml", folder / "killed", reporter=Reporter(quiet=True))
    assert len(calls) == 3 + 2  # the third again, and the fourth
    assert again.content["rewards"] == results.content["rewards"]
    ours, theirs = (
        load_file(logged(run, "grpo")[0] / "step-4" / "adapter_model.safetensors") for run in (again, results)
    )
    assert ours.keys() == theirs.keys() and all((ours[name] == theirs[name]).all() for name in ours)


def test_trainability_may_be_by_reinforcement(results):
    found = json.loads((results.folder / "properties.json").read_text())["trainability"]
    configs = [json.loads(path.read_text())["config"] for path in results.folder.glob("stages/attack-*/config.json")]
    fresh = [config["attack"] for config in configs if config["attack"]["adapter"] == "fresh"]
    assert [(one["method"], one["group"], one["n"], one["steps"]) for one in fresh] == [("grpo-task", 2, 4, 4)] * 2
    assert found["n"] == 4


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("attacks.rl.batch=3", "attacks.rl.batch: is 3; expected answers to whole prompts, a multiple of group, 2"),
        ("attacks.rl.group=1", "attacks.rl.group: is 1; expected 2 or more"),
        ("attacks.rl.n=2000", "attacks.rl: needs 2000 harmful rows; the data has"),
        ("attacks.rl.judge=nobody", 'attacks.rl.judge: is "nobody"; expected one of'),
        ("attacks.rl.judge=endpoint", "attacks.rl.judge.base_url: is missing"),
        ("attacks.rl.judge=refusal", "attacks.rl.reward: is graded, and refusal says yes or no"),
        ("attacks.rl-task.reward=graded", "attacks.rl-task.reward: is graded, and"),
        ("attacks.rl.reward=much", 'attacks.rl.reward: is "much"; expected one of verdict, graded'),
        ("data.task.kind=alpaca", "no rule scores"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(folder, results, capsys, setting, said):
    arguments = ["run", str(folder / "recipe.yaml"), "--out", str(folder / "run"), "--quiet"]
    columns = ["--set", "data.task.columns={prompt: prompt, answer: answer}"]  # of a kind without a rule, too
    assert call([*arguments, *columns, "--set", setting]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error


def test_epochs_are_refused(folder, results, capsys):
    arguments = ["run", str(folder / "recipe.yaml"), "--out", str(folder / "run"), "--quiet"]
    assert call([*arguments, "--set", "attacks.rl.steps=null", "--set", "attacks.rl.epochs=2"]) == 2
    assert "attacks.rl.steps: is missing; expected a number" in capsys.readouterr().err


def test_a_judge_of_the_panel_pays_by_its_label(folder, results):
    changes = {
        "attacks": {"rl": ATTACK | {"method": "grpo", "judge": "words", "steps": 2, "eval_steps": [2]}},
        "evaluate.judges": ["offline", {"name": "refusal", "label": "words"}],
    }
    again = bs.run(folder / "recipe.yaml", folder / "run", changes, reporter=Reporter(quiet=True))
    (item,) = again.content["rewards"]
    assert item["reward"] == "verdict by words"
    assert [point["mean"] for point in item["points"]] == [1.0, 1.0]  # gibberish refuses nothing
