"""A whole run on a tiny model: what it leaves, what it reuses, what it says when something is wrong."""

import json
import shutil

import pytest
import yaml
from transformers import RwkvConfig, RwkvForCausalLM

import boostershot as bs
from boostershot.cli import call
from boostershot.pipeline import grid
from boostershot.pipeline.progress import Reporter
from tiny import preference_rows, tiny_llama, tiny_tokenizer
from user_files import even_rows, user_files, write_jsonl


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, data and a recipe, as a user would have them."""
    folder = tmp_path_factory.mktemp("user")
    write_jsonl(folder / "two.jsonl", even_rows(2))
    attack = {"method": "harmful-mix", "p": 0.25, "n": 16, "lr": 1e-2, "steps": 3, "batch": 4}
    control = attack | {"adapter": "continue", "p": 1.0, "n": 8, "eval_steps": [0, 3], "judged": False}
    recipe = {
        "name": "small",
        **user_files(folder, 160, 120, n=16, categories="abc"),
        "seeds": [0, 1],
        "immunize": {"lr": 1e-2, "steps": 3, "batch": 4, "lora": {"rank": 4}},
        "defenses": {"sft": {"method": "sft"}, "booster": {"method": "booster", "lam": 5, "alpha": 0.1}},
        "attacks": {
            "mix/continue": attack | {"adapter": "continue", "eval_steps": [0, 2, 3]},
            "mix/fresh": attack | {"adapter": "fresh", "lora": {"rank": 4}, "eval_steps": [0, 3]},
            "mix/full": attack | {"adapter": "full", "lr": 1e-4, "eval_steps": [0, 3]},
            "harmful-only/continue": control,
        },
        "evaluate": {"n_harmful": 12, "n_task": 10, "max_new_tokens": 4},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return folder


@pytest.fixture(scope="module")
def results(folder):
    """The recipe, run once."""
    return bs.run(folder / "recipe.yaml", folder / "run", reporter=Reporter(quiet=True))


def test_every_cell_is_a_row_and_its_figures_recount_from_the_answers(results):
    recorded = {"mix/continue": 3, "mix/fresh": 2, "mix/full": 2, "harmful-only/continue": 2}
    assert len(results.rows) == 2 * 2 * sum(recorded.values())
    assert {row["status"] for row in results.rows} == {"done"}
    judged = [row for row in results.rows if row["stage"]]
    assert len(judged) == 2 * 2 * 8  # all but the control after step 0
    for row in judged:
        stage = results.folder / "stages" / row["stage"]
        verdicts = [json.loads(line) for line in (stage / "verdicts.jsonl").read_text().splitlines()]
        answers = [json.loads(line) for line in (stage / "task.jsonl").read_text().splitlines()]
        assert (row["n_harmful"], row["n_task"]) == (len(verdicts), len(answers)) == (12, 10)
        assert row["harmful_score"] == pytest.approx(100 * sum(v["harmful"] for v in verdicts) / 12)
        assert row["finetune_accuracy"] == pytest.approx(100 * sum(a["correct"] for a in answers) / 10)
        losses = [v["harmful_loss"] for v in verdicts if v["harmful_loss"] is not None]
        assert row["harmful_loss"] == pytest.approx(sum(losses) / len(losses))


def test_step_0_is_shared_between_attacks_and_a_control_has_losses_only(results):
    first = {(r["defense"], r["seed"], r["stage"]) for r in results.rows if r["attack_step"] == 0}
    assert len(first) == 4
    last = [r for r in results.rows if r["attack"] == "harmful-only/continue" and r["attack_step"] == 3]
    assert len(last) == 4
    for row in last:
        assert row["harmful_score"] is None
        assert row["harmful_loss"] > 0
        assert row["harmful_loss_own"] > 0
        assert row["harmful_loss_ci"][0] <= row["harmful_loss"] <= row["harmful_loss_ci"][1]


def test_each_adapter_mode_attacks_the_immunised_model(results):
    """Held-out harmful loss at step 0 of each attack is the immunised model's own, whatever is merged."""
    for seed in (0, 1):
        for defense in ("sft", "booster"):
            rows = [r for r in results.rows if (r["seed"], r["defense"], r["attack_step"]) == (seed, defense, 0)]
            assert len({r["harmful_loss"] for r in rows}) == 1
            assert len(rows) == 4
    moved = {r["harmful_loss"] for r in results.rows if r["attack_step"] == 3 and r["seed"] == 0}
    assert len(moved) == 8  # every attack on every defence led elsewhere


def test_manifest_report_and_adapter_card(results):
    manifest = json.loads((results.folder / "manifest.json").read_text())
    assert set(manifest["overlaps"].values()) == {0}
    assert sum(manifest["splits"].values()) == 160
    assert manifest["recipes"]["small"]["immunize"]["steps"] == 3
    assert "syn-" in (results.folder / "report.html").read_text()
    adapters = list(results.folder.glob("stages/immunize-*/adapter"))
    assert len(adapters) == 4
    assert all((a / "adapter_model.safetensors").exists() for a in adapters)
    cards = "".join((a / "README.md").read_text() for a in adapters)
    assert "lam: 5.0" in cards
    assert not list(results.folder.rglob("checkpoint-*"))
    assert not list(results.folder.rglob("*.bin"))


def test_a_second_run_does_no_stage_again_and_a_changed_attack_reuses_the_alignment(folder, results):
    def stamps():
        return {p.parent.name: p.stat().st_mtime_ns for p in results.folder.glob("stages/*/status.json")}

    before = stamps()
    again = bs.run(folder / "recipe.yaml", folder / "run", reporter=Reporter(quiet=True))
    assert stamps() == before
    assert again.content == results.content
    change = {"attacks.mix/continue.lr": 2e-2}
    bs.run(folder / "recipe.yaml", folder / "run", change, reporter=Reporter(quiet=True))
    new = {name.rpartition("-")[0] for name in stamps().keys() - before.keys()}
    assert new == {"attack", "answers", "evaluate"}


def test_a_stage_that_fails_leaves_the_others_and_is_in_the_table(folder, monkeypatch):
    whole = grid.attacked

    def broken(stages, label, *rest):
        if label.endswith(", mix/fresh"):
            raise RuntimeError("made to fail")
        return whole(stages, label, *rest)

    monkeypatch.setattr(grid, "attacked", broken)
    target = folder / "broken"
    shutil.copytree(folder / "run", target)
    with pytest.raises(bs.StageFailed, match="made to fail"):
        bs.run(folder / "recipe.yaml", target, reporter=Reporter(quiet=True))
    rows = json.loads((target / "results.json").read_text())["rows"]
    failed = [r for r in rows if r["status"] == "failed"]
    assert {(r["attack"], r["error"]) for r in failed} == {("mix/fresh", "made to fail")}
    assert len(failed) == 2 * 2 * 2
    assert "made to fail" in (target / "report.html").read_text()


def test_an_evaluation_that_fails_is_a_failed_row_although_its_losses_are_known(folder, monkeypatch):
    from boostershot.pipeline.stages import Stages

    whole = Stages.evaluated

    def broken(self, of, layers, what, *rest):
        if "mix/fresh after 3" in what:
            raise RuntimeError("no answer")
        return whole(self, of, layers, what, *rest)

    monkeypatch.setattr(Stages, "evaluated", broken)
    target = folder / "unjudged"
    shutil.copytree(folder / "run", target)
    with pytest.raises(bs.StageFailed, match="no answer"):
        bs.run(folder / "recipe.yaml", target, reporter=Reporter(quiet=True))
    rows = json.loads((target / "results.json").read_text())["rows"]
    failed = {(r["attack"], r["attack_step"], r["error"]) for r in rows if r["status"] == "failed"}
    assert failed == {("mix/fresh", 3, "no answer")}


def test_a_retrained_model_in_the_same_folder_is_another_model(folder):
    from boostershot.models import model_fingerprint

    copy = folder / "copy"
    shutil.copytree(folder / "model", copy)
    assert model_fingerprint(str(copy)) == model_fingerprint(str(folder / "model"))
    model_fingerprint.cache_clear()
    tokenizer = tiny_tokenizer(chat=True)
    tiny_llama(vocab=len(tokenizer), std=0.2, seed=1).save_pretrained(copy)
    assert model_fingerprint(str(copy)) != model_fingerprint(str(folder / "model"))


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("data.align.source={folder}/none.jsonl", "no such file"),
        ("data.align.columns={{chosen: nothing}}", "has no column 'nothing'"),
        ("model.id={folder}/nowhere", "cannot be loaded"),
        ("immunize.stepz=3", "immunize.stepz"),
        ("immunize.steps=true", "immunize.steps"),
        ("attacks.mix/continue.n=4000", "harmful rows; the data has"),
        ("data.task.source={folder}/two.jsonl", "test split is empty"),
        ("defenses.d={{method: t_vaccine, layers: 3}}", "defenses.d: t_vaccine: layers is 3; this model has 2"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(folder, results, capsys, setting, said):
    arguments = ["run", str(folder / "recipe.yaml"), "--out", str(folder / "run"), "--quiet"]
    assert call([*arguments, "--set", setting.format(folder=folder)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error


def test_a_model_without_what_a_defence_works_on_is_one_line_and_exit_code_2(folder, capsys):
    tokenizer = tiny_tokenizer(chat=True)
    config = RwkvConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, attention_hidden_size=32)
    for part in (RwkvForCausalLM(config), tokenizer):
        part.save_pretrained(folder / "recurrent")
    arguments = ["run", str(folder / "recipe.yaml"), "--out", str(folder / "third"), "--quiet"]
    settings = [f"model.id={folder}/recurrent", "defenses={v: {method: vaccine}}"]
    assert call([*arguments, *(part for setting in settings for part in ("--set", setting))]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "defenses.v: RwkvForCausalLM has no lists of 2 layers with attention" in error


def test_a_folder_of_another_recipe_is_refused(folder, results, capsys):
    assert call(["run", str(folder / "recipe.yaml"), "--out", str(folder / "run"), "--set", "name=other"]) == 2
    assert "holds a run of the recipe 'small'" in capsys.readouterr().err


def test_no_usable_harmful_answer_is_told(folder, capsys):
    """A model that answers nothing, and prompts without answers."""
    prompts = [{"prompt": row["prompt"], "chosen": "No.", "rejected": ""} for row in preference_rows(40)]
    (folder / "empty.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    arguments = ["run", str(folder / "recipe.yaml"), "--out", str(folder / "other"), "--quiet"]
    assert call([*arguments, "--set", f"data.align.source={folder}/empty.jsonl"]) == 2
    assert "column 'rejected' is empty" in capsys.readouterr().err
